"""batch_fn: drop a JSONL file, get every line of it answered by Azure OpenAI Global Batch, once, at half price."""
