"""The dask collections of the workloads; who is dask's default scheduler computes them. Imported by peers that may be.

As in a program that begins with ``import dask.dataframe``, all is imported before the peer starts.
"""

from __future__ import annotations

import math

import dask.array as da
import dask.dataframe as dd
import numpy
import pandas

PARTITIONS = 64
KEYS = 100
#: numbers in each of many small chunks
CHUNK = 10


def random_mean(side: int) -> float:
    """The mean of a square of random numbers, in the chunks that dask chooses."""
    return float(da.random.random((side, side)).mean().compute())


def make_rows(part: int, rows: int) -> pandas.DataFrame:
    """One partition: a key of `KEYS` and a number."""
    numbers = numpy.arange(part * rows, (part + 1) * rows)
    return pandas.DataFrame({"key": numbers % KEYS, "number": numbers.astype("float64")})


def group_by(rows: int) -> float:
    """The mean of each key's numbers in a dataframe of `PARTITIONS`, which tasks make: the sum of these means."""
    frame = dd.from_map(make_rows, range(PARTITIONS), rows=rows // PARTITIONS)  # type: ignore[no-untyped-call]
    return float(frame.groupby("key").number.mean().compute().sum())


def expected_group_by(rows: int) -> float:
    """What `group_by` comes to: a key's numbers lie `KEYS` apart, so their mean is that of the first and the last."""
    count = rows // PARTITIONS * PARTITIONS
    lasts = [key + (count - 1 - key) // KEYS * KEYS for key in range(KEYS)]
    return math.fsum((key + last) / 2 for key, last in zip(range(KEYS), lasts))


def small_chunks(count: int) -> int:
    """The sum of ``count`` chunks of `CHUNK` ones, to each of which one was added."""
    return int((da.ones(count * CHUNK, chunks=CHUNK) + 1).sum().compute())
