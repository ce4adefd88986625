"""The commands with a broker that runs already, as in deployment."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from futurebroker import Client
from futurebroker.exceptions import RefusedError
from tests.integration.programs import FUTUREBROKER, lines_until, running

pytestmark = pytest.mark.service("rabbitmq")


def test_scheduler_worker_and_client_meet_at_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> None:
    """Nobody of ours listens; large results cross the broker or the worker's files, and no password is printed."""
    secret, cluster = secrets.token_hex(16), f"test-{secrets.token_hex(4)}"
    password = str(urlsplit(rabbitmq_url).password)
    common = {"FUTUREBROKER_SECRET": secret, "FUTUREBROKER_CLUSTER": cluster}
    with running([*FUTUREBROKER, "scheduler", "--broker", rabbitmq_url], tmp_path, **common) as scheduler:
        said = lines_until(scheduler, "stop with")
        with running([*FUTUREBROKER, "worker", rabbitmq_url, "--executors", "1"], tmp_path, **common) as worker:
            said += lines_until(worker, "serves the scheduler")
            with Client(rabbitmq_url, secret=secret, cluster=cluster) as client:
                assert sum(client.gather(client.map(abs, range(-1000, 0)))) == 500_500
                assert client.submit(bytes, 1_000_000).result(timeout=30) == bytes(1_000_000)
            worker.terminate()
            assert worker.wait(30) == 0
        scheduler.terminate()
        assert scheduler.wait(30) == 0
    assert password not in "".join(said)


def test_up_serves_at_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> None:
    """Scheduler and worker in one command find the broker in the variable a platform sets."""
    secret, cluster = secrets.token_hex(16), f"test-{secrets.token_hex(4)}"
    common = {"FUTUREBROKER_SECRET": secret, "FUTUREBROKER_CLUSTER": cluster, "CLOUDAMQP_URL": rabbitmq_url}
    with running([*FUTUREBROKER, "up", "--executors", "1"], tmp_path, **common) as up:
        lines_until(up, "one worker runs")
        with Client(rabbitmq_url, secret=secret, cluster=cluster) as client:
            assert client.submit(abs, -1).result(timeout=30) == 1
        up.terminate()
        assert up.wait(30) == 0


@pytest.mark.parametrize("journal", ["none", "process"])
def test_a_cluster_at_rabbitmq_is_shut_down_by_a_client(rabbitmq_url: str, tmp_path: Path, journal: str) -> None:
    """The broker stays: workers and the other client must be told, since no connection ends with the scheduler."""
    secret, cluster, path = secrets.token_hex(16), f"test-{secrets.token_hex(4)}", tmp_path / "scheduler.json"
    common = {
        "FUTUREBROKER_SECRET": secret, "FUTUREBROKER_CLUSTER": cluster,
        "FUTUREBROKER_DATABASE_URL": f"sqlite:///{tmp_path}/journal.db",
    }  # fmt: skip
    command = [*FUTUREBROKER, "scheduler", "--broker", rabbitmq_url, "--journal", journal]
    with (
        running([*command, "--scheduler-file", str(path)], tmp_path, **common) as scheduler,
        running([*FUTUREBROKER, "worker", rabbitmq_url, "--executors", "1"], tmp_path, **common) as first,
        running([*FUTUREBROKER, "worker", "--scheduler-file", str(path), "--executors", "1"], tmp_path) as second,
    ):
        lines_until(scheduler, "stop with")
        lines_until(first, "serves the scheduler")
        lines_until(second, "serves the scheduler")
        with Client(scheduler_file=path) as other, Client(rabbitmq_url, secret=secret, cluster=cluster) as client:
            held = other.submit(time.sleep, 600)
            while not client.call_stack():
                pass
            client.shutdown()
            with pytest.raises(RefusedError, match="was shut down by"):
                held.result(timeout=30)
        for program in (scheduler, first, second):
            program.communicate(timeout=30)
            assert program.returncode == 0
    assert not path.exists()
