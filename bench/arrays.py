"""The two tasks of the array workload: one makes an array, the next reads all of it."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray


def make_array(nbytes: int) -> NDArray[numpy.float64]:
    """An array of ones that takes `nbytes` of memory, every page of it written."""
    return numpy.ones(nbytes // 8, dtype=numpy.float64)


def total(array: NDArray[numpy.float64]) -> float:
    return float(array.sum())
