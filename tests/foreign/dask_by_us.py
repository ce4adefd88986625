"""A pytest plugin: whatever the tests of dask compute, they compute by a client of ours (``-p`` this module)."""

from __future__ import annotations

import pytest

from futurebroker import Client, LocalCluster

_open: list[Client | LocalCluster] = []


def pytest_configure(config: pytest.Config) -> None:
    """A cluster in this process, whose client is dask's default scheduler."""
    cluster = LocalCluster(processes=False, executors_per_worker=2)
    _open.extend((cluster, Client(cluster)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """In the other order."""
    for one in reversed(_open):
        one.close()
