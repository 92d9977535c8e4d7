"""Benchmarks: one script per question, each run alone with ``python -m benchmarks.NAME``."""
