"""Tests of batch_fn.doctor."""
