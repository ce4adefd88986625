"""Kept results leave the scheduler's memory for the database, and are there for who asks, also after a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client
from futurebroker.celery.states import FAILURE, PENDING, SUCCESS
from tests.integration import celery_tasks as t
from tests.integration.celery_tasks import MyError, app
from tests.integration.test_celery_processes import ROOT, serve, until
from tests.integration.test_scheduler_restart import free_port

WAIT = 60.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[[], Client]]:
    """A scheduler in mode `process` that keeps next to nothing in memory; each call kills it and gives a client."""
    port = free_port()
    environ = {
        **os.environ, "PYTHONPATH": ROOT, "FUTUREBROKER_SECRET": "s" * 40, "FUTUREBROKER_RESULTS_LEAVE": "0.1s",
    }  # fmt: skip
    processes: dict[str, Any] = {}
    clients: list[Client] = []

    def begin() -> Client:
        if "scheduler" in processes:
            processes["scheduler"].kill()
            processes["scheduler"].wait(10)
            processes["scheduler"].stdout.close()
        processes["scheduler"] = serve(environ, tmp_path, "scheduler", "--port", str(port))
        if "worker" not in processes:
            processes["worker"] = serve(environ, tmp_path, "worker", f"127.0.0.1:{port}", "-c", "2")
        clients.append(Client(f"127.0.0.1:{port}", secret="s" * 40, set_as_default=False, timeout=20))
        app.use_client(clients[-1])
        return clients[-1]

    yield begin
    app._sender = None
    for client in clients:
        client.close()
    for name in ("worker", "scheduler"):
        processes[name].terminate()
        processes[name].wait(30)
        processes[name].stdout.close()


def counters(client: Client) -> dict[str, int]:
    """What the scheduler has counted."""
    return dict(client.scheduler_info()["counters"])


def test_results_leave_memory_and_are_found_again(cluster: Callable[[], Client], tmp_path: Path) -> None:
    """By `get`, `state`, `client.future` and as arguments; nothing is lost by a kill, and what is forgotten is gone."""
    client = cluster()
    ids = [t.add.delay(number, 1).id for number in range(200)]
    failed = t.fail.delay().id
    mended = tmp_path / "mended"
    retried = t.fails_without.delay(str(mended)).id
    plain = client.submit(pow, 2, 10, durable=True).key
    named = client.submit(pow, 3, 2, key="named", durable=True).key
    until(lambda: counters(client).get("results shelved", 0) >= 203)
    until(lambda: sum(client.scheduler_info()["tasks"].values()) == 1)  # the named one: its key may come again

    assert [app.AsyncResult(key).get(timeout=WAIT) for key in ids[:20]] == list(range(1, 21))
    found = app.AsyncResult(ids[30])
    assert (found.state, found.result, found.name) == (SUCCESS, 31, t.add.name)
    assert found.date_done is not None
    assert app.AsyncResult(failed).state == FAILURE
    with pytest.raises(MyError):
        app.AsyncResult(failed).get(timeout=WAIT)
    assert client.future(plain).result(WAIT) == 1024
    assert client.future(named).result(WAIT) == 9
    assert t.add.delay(app.AsyncResult(ids[40]), 1).get(timeout=WAIT) == 42
    assert app.AsyncResult("never-heard-of").state == PENDING
    mended.touch()
    again = app.AsyncResult(retried)
    again.retry()
    assert again.get(timeout=WAIT) == "there"
    assert again.state == SUCCESS

    until(lambda: counters(client).get("results shelved", 0) >= 220)
    app.AsyncResult(ids[50]).forget()
    until(lambda: app.AsyncResult(ids[50]).state == PENDING)
    client = cluster()
    assert [app.AsyncResult(key).get(timeout=WAIT) for key in ids[:50]] == list(range(1, 51))
    assert app.AsyncResult(ids[50]).state == PENDING
    assert client.future(plain).result(WAIT) == 1024
