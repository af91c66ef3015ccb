"""This library beside its peers: `uv run --group bench python -m benchmarks`."""
