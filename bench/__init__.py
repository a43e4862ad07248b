"""Benchmarks, and the deterministic masks that the tests share with them (:mod:`bench.masks`)."""
