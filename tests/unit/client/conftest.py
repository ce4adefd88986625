"""A scripted scheduler, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from futurebroker.client.client import Client
from tests.unit.client.scripted import SECRET, ScriptedScheduler


@pytest.fixture
def scheduler() -> Iterator[ScriptedScheduler]:
    """A scheduler that says nothing of itself but Welcome."""
    with ScriptedScheduler() as scheduler:
        yield scheduler


@pytest.fixture
def client(scheduler: ScriptedScheduler) -> Iterator[Client]:
    """A client of `scheduler`."""
    with Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET) as client:
        yield client
