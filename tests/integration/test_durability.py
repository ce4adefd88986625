"""A scheduler is killed at each step of writing, again and again, while a graph runs: nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client
from tests.chaos import graph
from tests.chaos.ledger import Ledger
from tests.integration.doomed_scheduler import STEPS
from tests.integration.programs import FUTUREBROKER, ROOT, environment, lines_until, running

#: times the scheduler is killed at each step
KILLS = int(os.environ.get("FUTUREBROKER_TEST_KILLS", "20"))
TASKS = 24
SECRET = "s" * 32

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 15 * KILLS)]


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Doomed:
    """Schedulers at one address, each in place of one that has killed itself."""

    def __init__(self, folder: Path, step: str) -> None:
        self.url = f"amqp://127.0.0.1:{free_port()}"
        self.kills = 0
        port, database = self.url.rpartition(":")[2], f"sqlite:///{folder / 'journal.db'}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.doomed_scheduler", step, port, database],
            cwd=ROOT, env=environment(FUTUREBROKER_SECRET=SECRET), text=True, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._counter = threading.Thread(target=self._count)
        self._counter.start()

    def _count(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.kills = int(line)

    def end(self) -> None:
        """Have all of them gone."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._counter.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def doomed(folder: Path, step: str) -> Iterator[Doomed]:
    """Doomed schedulers, and a worker that outlives them."""
    schedulers = Doomed(folder, step)
    try:
        worker = [*FUTUREBROKER, "worker", schedulers.url, "--executors", "2"]
        with running(worker, folder, FUTUREBROKER_SECRET=SECRET) as program:
            lines_until(program, "serves the scheduler")
            yield schedulers
            program.kill()
            program.communicate()
    finally:
        schedulers.end()


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path, step: str) -> None:
    """Each graph is accepted, run and gathered while schedulers die at the step; the ledger tells what ran."""
    ledger = Ledger(tmp_path)
    with doomed(tmp_path, step) as schedulers, Client(schedulers.url, secret=SECRET, timeout=60) as client:
        number = 0
        while schedulers.kills < KILLS:
            number += 1
            nodes = graph.layered(number, TASKS, 0.002, secrets.token_hex(4))
            futures: list[Any] = []
            for node in nodes:
                inputs = [futures[position] for position in node.inputs]
                call = (graph.work, ledger.path, node.key, node.seconds, node.padding, *inputs)
                futures.append(client.submit(*call, key=node.key))
            values = [value for value, _ in client.gather(futures)]
            assert values == graph.answers(nodes)
            del futures
        counts = Counter(key for key, _, _ in ledger.rows())
        assert len(counts) == number * TASKS
        again = {key: count for key, count in counts.items() if count > 1}
    assert again == {}, f"{step}: {len(again)} of {len(counts)} tasks ran again: {again}"
