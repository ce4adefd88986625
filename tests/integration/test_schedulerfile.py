"""Programs that find each other by a scheduler file, as on the shared disk of a cluster."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from futurebroker import Client
from futurebroker.exceptions import ConfigError, SecretError
from tests.integration.killable import free_port
from tests.integration.programs import FUTUREBROKER, lines_until, run, running

PATIENCE = 30


def test_scheduler_worker_and_client_meet_by_a_file(tmp_path: Path) -> None:
    """Started in any order, with no other setting in common; the file goes with the scheduler."""
    path = tmp_path / "scheduler.json"
    with running([*FUTUREBROKER, "worker", "--scheduler-file", str(path), "--executors", "1"], tmp_path) as worker:
        command = [*FUTUREBROKER, "scheduler", "--port", str(free_port()), "--cluster", "named", "--journal", "none"]
        variables = {"FUTUREBROKER_SECRET": "known to the scheduler only, at first"}
        with running([*command, "--scheduler-file", str(path)], tmp_path, **variables) as scheduler:
            lines_until(scheduler, "stop with")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            lines_until(worker, "cluster named")
            with Client(scheduler_file=path) as client:
                assert client.submit(pow, 2, 5).result(PATIENCE) == 32
                client.shutdown()
            scheduler.communicate(timeout=PATIENCE)
            assert scheduler.returncode == 0
            assert not path.exists()
        worker.communicate(timeout=PATIENCE)


def test_a_client_writes_where_its_cluster_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For other programs of the same user; without the secret for those that have it."""
    path = tmp_path / "scheduler.json"

    async def inside() -> int:
        async with Client(scheduler_file=path, asynchronous=True) as other:
            found: int = await other.submit(pow, 2, 3)
            return found

    with Client(executors_per_worker=1) as client:
        client.write_scheduler_file(path)
        with Client(scheduler_file=str(path)) as other:
            assert other.scheduler_address == client.scheduler_address
            assert other.cluster is None
            assert other.submit(pow, 2, 5).result(PATIENCE) == 32
        assert client.submit(pow, 2, 2).result(PATIENCE) == 4
        assert asyncio.run(inside()) == 8
        os.chmod(path, 0o644)
        with pytest.raises(SecretError, match="chmod 600"):
            Client(scheduler_file=path)
        client.write_scheduler_file(path, secret=False)
        assert client._connection.secret.decode() not in path.read_text()
        monkeypatch.setenv("FUTUREBROKER_SECRET", client._connection.secret.decode())
        with Client(scheduler_file=path) as other:
            assert other.submit(pow, 2, 4).result(PATIENCE) == 16


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    """By clients and commands."""
    path = tmp_path / "scheduler.json"
    with pytest.raises(ConfigError, match="there is no scheduler file"):
        Client(scheduler_file=path, timeout=0.01)
    with pytest.raises(TypeError, match="give one of them"):
        Client("127.0.0.1", scheduler_file=path)
    with pytest.raises(TypeError, match="n_workers"):
        Client(scheduler_file=path, n_workers=1)
    both = run([*FUTUREBROKER, "worker", "127.0.0.1", "--scheduler-file", str(path)], tmp_path)
    assert both.returncode == 1
    assert "give one of them" in both.stderr
    path.write_text("{}")
    odd = run([*FUTUREBROKER, "worker", "--scheduler-file", str(path)], tmp_path)
    assert odd.returncode == 1
    assert "is no scheduler file" in odd.stderr
