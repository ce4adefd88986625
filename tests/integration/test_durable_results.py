"""Large results that were asked to be durable outlive every process; what made them isn't run again."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from futurebroker import Client
from tests.chaos.ledger import Ledger
from tests.integration.gate import Gate, pass_gate
from tests.integration.killable import PATIENCE, Cluster

SIZE = 3_000_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One that ends with the test."""
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def made(path: str, size: int) -> bytes:
    """Bytes, and a mark for each time that they are made."""
    with open(path, "a") as file:
        file.write("x")
    return bytes(size)


def test_they_outlive_all_workers_and_the_scheduler(cluster: Cluster) -> None:
    """With the client that has them, for another one by the key, and as an input on a new worker."""
    marks = cluster.folder / "marks"
    sizes = [70_000, SIZE]
    with cluster.client() as client:
        futures = [client.submit(made, str(marks), size, durable=True) for size in sizes]
        keys = [future.key for future in futures]
        # Neither has been fetched by the client: it knows that they are there, and no more.
        for future in futures:
            assert future.exception(PATIENCE) is None
        cluster.kill(cluster.worker)
        cluster.kill(cluster.scheduler)
        cluster.start_scheduler()
        assert [len(future.result(PATIENCE)) for future in futures] == sizes
    with cluster.client() as other:
        again = [other.future(key) for key in keys]
        assert [len(one.result(PATIENCE)) for one in again] == sizes
        cluster.start_worker()
        assert [other.submit(len, one).result(PATIENCE) for one in again] == sizes
    assert marks.read_text() == "xx"


def test_a_worker_that_dies_before_it_is_stored_makes_no_difference(cluster: Cluster) -> None:
    """Nobody was told of that result: it is made again, by another worker, and then it is there to stay."""
    with Gate() as gate, cluster.client() as client:
        ledger = Ledger(cluster.folder)
        soft, hard = resource.prlimit(cluster.scheduler.pid, resource.RLIMIT_FSIZE)
        future = client.submit(pass_gate, gate.port, ledger.path, "large", SIZE, durable=True)
        arrival = gate.arrival()
        # The file takes no more: whatever comes now can't be written.
        resource.prlimit(cluster.scheduler.pid, resource.RLIMIT_FSIZE, (4096, hard))
        arrival.release()
        assert arrival.gone()
        with pytest.raises(TimeoutError):
            future.result(2.5)
        cluster.kill(cluster.worker)
        resource.prlimit(cluster.scheduler.pid, resource.RLIMIT_FSIZE, (soft, hard))
        cluster.start_worker()
        gate.arrival().release()
        assert len(future.result(PATIENCE)[1]) == SIZE
        cluster.kill(cluster.worker)
        key = future.key
        assert len(fetched_anew(cluster, key)[1]) == SIZE
        assert [row[0] for row in ledger.rows()] == ["large", "large"]


def fetched_anew(cluster: Cluster, key: str) -> tuple[int, bytes]:
    """What another client gets by the key."""
    client: Client
    with cluster.client() as client:
        value: tuple[int, bytes] = client.future(key).result(PATIENCE)
        return value
