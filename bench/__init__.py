"""The benchmark: `make bench` measures, prints one table and writes it to RESULTS.md. Nothing else uses this."""
