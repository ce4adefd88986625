"""`Client.shutdown` ends a whole cluster: one that the program started, or was given, or reached by an address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from futurebroker import Client, Event, LocalCluster, get_client
from futurebroker.client import ending
from futurebroker.exceptions import FuturebrokerError, NoSchedulerError, RefusedError, TaskError
from futurebroker.launch import ClusterProcesses
from tests.integration.brokers import SECRET, embedded_broker
from tests.integration.killable import Cluster, free_port
from tests.integration.programs import FUTUREBROKER, lines_until, run, running

PATIENCE = 30


@pytest.fixture
def programs() -> Iterator[contextlib.ExitStack]:
    """Programs that end with the test."""
    with contextlib.ExitStack() as stack:
        yield stack


def wait_for_ever(name: str) -> None:
    Event(name).wait()


def end_it_all() -> None:
    get_client().shutdown()


def said(program: subprocess.Popen[str]) -> tuple[int, str]:
    """What a program that ends by itself exits with, and what it logged."""
    _, errors = program.communicate(timeout=PATIENCE)
    return program.returncode, errors


def test_scheduler_and_workers_of_an_address_end_in_order(tmp_path: Path, programs: contextlib.ExitStack) -> None:
    """With what they run; another client is told, instead of waiting for a scheduler that doesn't come back."""
    cluster = Cluster(tmp_path, programs)
    second = cluster.start_worker()
    first = cluster.worker
    with cluster.client() as other, cluster.client() as client:
        held = other.submit(wait_for_ever, "never")
        while not other.call_stack([held]):
            pass
        client.shutdown()
        assert client.status == "closed"
        client.shutdown()
        with pytest.raises(RefusedError, match=f"was shut down by {client.id}"):
            held.result(PATIENCE)
        with pytest.raises(RefusedError):
            other.submit(pow, 2, 2)
    assert said(cluster.scheduler)[0] == 0
    assert said(first)[0] == 0
    assert said(second)[0] == 0
    with pytest.raises(NoSchedulerError):
        Client(cluster.address, secret="known to these tests", timeout=0.5)


def test_what_was_published_and_journaled_stays(tmp_path: Path, programs: contextlib.ExitStack) -> None:
    """The next scheduler at the database has it, and what had not finished."""
    cluster = Cluster(tmp_path, programs)
    client = cluster.client()
    client.publish_dataset(answer=client.submit(pow, 2, 5, key="kept"))
    durable = client.submit(pow, 3, 3, key="durable", durable=True)
    assert durable.result(PATIENCE) == 27
    client.shutdown()
    assert said(cluster.scheduler)[0] == 0
    assert said(cluster.worker)[0] == 0
    cluster.start_scheduler()
    cluster.start_worker()
    with cluster.client() as client:
        assert client.list_datasets() == ("answer",)
        assert client.get_dataset("answer").result(PATIENCE) == 32
        assert client.future("durable").result(PATIENCE) == 27


def test_a_standby_does_not_take_over(tmp_path: Path, programs: contextlib.ExitStack) -> None:
    """The cluster was to end; whereas a standby that is started afterwards leads."""
    with embedded_broker() as broker, contextlib.ExitStack() as stack:
        variables = {
            "FUTUREBROKER_SECRET": SECRET.decode(),
            "FUTUREBROKER_DATABASE_URL": f"sqlite:///{tmp_path}/journal.db",
        }
        scheduler = [*FUTUREBROKER, "scheduler", "--broker", broker.url]
        leader = stack.enter_context(running(scheduler, tmp_path, **variables))
        lines_until(leader, "stop with")
        worker = stack.enter_context(running([*FUTUREBROKER, "worker", broker.url], tmp_path, **variables))
        lines_until(worker, "serves")
        standby = stack.enter_context(running([*scheduler, "--standby"], tmp_path, **variables))
        lines_until(standby, "waiting to lead")
        assert standby.stderr is not None
        while "waiting to lead" not in standby.stderr.readline():
            pass
        Client(broker.url, secret=SECRET.decode()).shutdown()
        output, _ = standby.communicate(timeout=PATIENCE)
        assert "was shut down by a client" in output
        assert standby.returncode == 0
        assert said(leader)[0] == 0
        assert said(worker)[0] == 0
        later = stack.enter_context(running([*scheduler, "--standby"], tmp_path, **variables))
        lines_until(later, "stop with")
        later.terminate()
        assert said(later)[0] == 0


def test_a_scheduler_can_refuse(tmp_path: Path, programs: contextlib.ExitStack) -> None:
    """Where a cluster is shared; the client goes on, and so does everybody else."""
    cluster = Cluster(tmp_path, programs, FUTUREBROKER_ALLOW_SHUTDOWN="false")
    with cluster.client() as client:
        with pytest.raises(FuturebrokerError, match="--no-shutdown"):
            client.shutdown()
        assert client.submit(pow, 2, 5).result(PATIENCE) == 32
    done = run([*FUTUREBROKER, "shutdown", cluster.address, "--yes"], tmp_path, **cluster.variables)
    assert done.returncode == 1
    assert "--no-shutdown" in done.stderr


def test_a_cluster_object_is_closed(tmp_path: Path) -> None:
    """Whoever started it; in this process or in others."""
    for processes in (True, False):
        with (
            LocalCluster(executors_per_worker=1, processes=processes) as cluster,
            Client(cluster) as other,
            Client(cluster) as client,
        ):
            held = other.submit(pow, 2, 3)
            assert held.result(PATIENCE) == 8
            client.shutdown()
            assert (cluster.status, client.status) == ("closed", "closed")
            with pytest.raises(RefusedError):
                other.submit(pow, 2, 2).result(PATIENCE)


def test_a_scheduler_that_does_not_answer_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the cluster object ends its processes all the same."""
    monkeypatch.setattr(ending, "PATIENCE", 0.2)
    with LocalCluster(executors_per_worker=1) as cluster, Client(cluster) as client:
        machinery = cluster._machinery
        assert isinstance(machinery, ClusterProcesses)
        os.kill(machinery.children[0].pid, signal.SIGKILL)
        client.shutdown()
        assert cluster.status == "closed"


def test_a_cluster_of_ones_own_is_closed() -> None:
    """As close() does, which users of dask.distributed also know by this name."""
    client = Client(executors_per_worker=1)
    cluster = client.cluster
    client.shutdown()
    assert isinstance(cluster, LocalCluster)
    assert cluster.status == "closed"


def test_it_is_awaited_in_asyncio() -> None:
    """Also with a cluster that is asyncio's, by a client of its own loop and by one that isn't."""

    async def inside() -> None:
        async with LocalCluster(executors_per_worker=1, asynchronous=True) as cluster:
            client = await Client(cluster, asynchronous=True)
            assert await client.submit(pow, 2, 3) == 8
            await client.shutdown()
            assert cluster.status == "closed"
            await client.shutdown()
        async with LocalCluster(executors_per_worker=1, asynchronous=True) as cluster:
            blocking = await asyncio.to_thread(Client, cluster)
            await asyncio.to_thread(blocking.shutdown)
            async with Client(cluster, asynchronous=True, timeout=0.5):
                raise AssertionError("nobody should answer")

    with pytest.raises(NoSchedulerError):
        asyncio.run(inside())


def test_a_task_cannot() -> None:
    """It would end itself, and nobody could tell what became of it."""
    with Client(executors_per_worker=1) as client:
        with pytest.raises(TaskError, match="in the program that submits"):
            client.submit(end_it_all).result(PATIENCE)
        assert client.submit(pow, 2, 3).result(PATIENCE) == 8


def test_the_command_asks_first(tmp_path: Path, programs: contextlib.ExitStack) -> None:
    """Then everything of `futurebroker up` ends without an error."""
    port = free_port()
    variables = {"FUTUREBROKER_SECRET": "known to these tests", "FUTUREBROKER_DASHBOARD": "false"}
    command = [*FUTUREBROKER, "up", "--port", str(port), "--executors", "1", "--journal", "none"]
    up = programs.enter_context(running(command, tmp_path, **variables))
    lines_until(up, "one worker runs")
    shutdown = [*FUTUREBROKER, "shutdown", f"127.0.0.1:{port}"]
    declined = run(shutdown, tmp_path, text="n\n", **variables)
    assert declined.returncode == 130
    assert re.search(r"ends the cluster default at amqp://.*127\.0\.0\.1", declined.stdout)
    assert up.poll() is None
    done = run([*shutdown, "-y"], tmp_path, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "has ended" in done.stdout
    output, errors = up.communicate(timeout=PATIENCE)
    assert "was told to end" in output
    assert up.returncode == 0, errors
