"""The functions that every peer runs. They stand in a module so that each peer may pickle them by reference.

Array functions live in `bench.arrays`: importing NumPy into each executor would hide the cost of starting one.
"""

from __future__ import annotations


def inc(x: int) -> int:
    return x + 1


def add(a: int, b: int) -> int:
    return a + b
