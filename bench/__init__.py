"""Benchmarks: `python -m bench` prints the tables of docs/performance.md."""
