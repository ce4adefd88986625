"""What several modules of tests need: a small cluster and its client, and that on which the Celery face is shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from futurebroker import Client, LocalCluster
from tests.integration import celery_tasks as t
from tests.integration.celery_tasks import GATES, LOG, app
from tests.integration.celery_waits import get


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Two workers with one executor each; modules that need another have their own."""
    with LocalCluster(n_workers=2, executors_per_worker=1) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client of the cluster, the default one."""
    with Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def celery_app_on_a_cluster() -> Iterator[None]:
    """A cluster for the app of `celery_tasks`; its executor is three threads, which stay."""
    one_executor = LocalCluster(processes=False, executors_per_worker=1, threads_per_worker=3)
    with one_executor as cluster, Client(cluster, set_as_default=False) as client:
        app.use_client(client)
        app.set_current()
        get(t.calls_another.delay(1))  # makes the client inside the executor, which stays
        get(t.coroutine.delay(1))  # and its event loop
        get((t.tells_what_follows_later.si() | t.identity.s())())  # and the client of that
        t.add.delay(1, 1).then(lambda _: None)  # and the thread for callbacks
        yield
    app._sender = None


@pytest.fixture
def celery_cluster(celery_app_on_a_cluster: None) -> Iterator[None]:
    """That cluster, with nothing logged; gates that a test left closed are opened."""
    LOG.clear()
    yield
    for gate in GATES.values():
        gate.set()
