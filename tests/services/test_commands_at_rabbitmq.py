"""The commands with a broker that runs already, as in deployment."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from futurebroker import Client
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
