"""A forked copy of a program: what it has of a client is told apart from the client, and can't speak in its name."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.programs import run

PROGRAM = """
import multiprocessing, os, sys
from futurebroker import Client, LocalCluster
from futurebroker.celery import Celery

def attempt(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__

def copy(answers):
    use = lambda: client.submit(abs, -1)
    calls = [done.result, lambda: pending.result(timeout=20), use, client.scheduler_info, client.close]
    answers.put([client.status, *map(attempt, calls)])
    with Client(**where) as own:
        answers.put(own.submit(abs, -7).result(timeout=20))
    answers.put(add.delay(3, 4).get(timeout=20))

with LocalCluster(executors_per_worker=1) as cluster, Client(cluster) as client:
    where = dict(address=cluster.scheduler_address, secret=cluster.secret.decode(), cluster=cluster.name)
    os.environ.update(FUTUREBROKER_SECRET=where["secret"], FUTUREBROKER_CLUSTER=cluster.name)
    app = Celery("app", broker=cluster.scheduler_address)
    add = app.task(name="add")(lambda x, y: x + y)
    assert add.delay(1, 2).get(timeout=20) == 3
    done = client.submit(abs, -5)
    done.result()
    pending = client.submit(abs, -6, workers="nobody")
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    process = fork.Process(target=copy, args=(answers,))
    process.start()
    print(answers.get(), answers.get(), answers.get())
    process.join()
    print(client.submit(abs, -2).result(timeout=20), pending.status, add.delay(5, 6).get(timeout=20))
    app.close()
"""


def test_a_copy_refuses_and_its_own_client_works(tmp_path: Path) -> None:
    """It would send calls under the numbers and keys of the client's own, and each would get the other's results."""
    done = run([sys.executable, "-c", PROGRAM], tmp_path)
    refused = "ClientClosedError"
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{['forked', 5, refused, refused, refused, None]} 7 7", "2 pending 11"]
    assert done.returncode == 0
