"""Benchmarks: the base model and the candidate, item by item. See `benchmark.py`; `gate.py` draws the
conclusion."""
