"""Schedulers are killed at a step of writing the journal, again and again, while graphs run; and the reckoning."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from futurebroker import Client, Future
from tests.chaos import graph
from tests.chaos.doomed import STEPS
from tests.chaos.ledger import Ledger
from tests.chaos.runner import HUNG_AFTER, Reckoning, Tally
from tests.integration.killable import free_port
from tests.integration.programs import FUTUREBROKER, ROOT, environment, lines_until, running

TASKS = 24
#: graphs a kill, on average; with more of them the schedulers don't die as they should
GRAPHS_MOST = 10
TASK_SECONDS = 0.002
SECRET = "s" * 32

__all__ = ["STEPS", "kill_at"]


class Doomed:
    """Schedulers at one address, each in place of one that has killed itself."""

    def __init__(self, folder: Path, step: str) -> None:
        self.url = f"amqp://127.0.0.1:{free_port()}"
        self.kills = 0
        port, database = self.url.rpartition(":")[2], f"sqlite:///{folder / 'journal.db'}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.doomed", step, port, database],
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
    """Doomed schedulers."""
    schedulers = Doomed(folder, step)
    try:
        yield schedulers
    finally:
        schedulers.end()


def submit(client: Client, ledger: Ledger, nodes: list[graph.Node], tally: Tally) -> list[Future[Any]]:
    """A graph whose large results are durable."""
    futures: list[Future[Any]] = []
    for node in nodes:
        inputs = [futures[position] for position in node.inputs]
        call = (ledger.path, node.key, node.seconds, node.padding, *inputs)
        futures.append(client.submit(graph.work, *call, key=node.key, durable=node.padding > 0))
        futures[-1].add_done_callback(tally.ended)
    return futures


def kill_at(step: str, kills: int, folder: Path) -> dict[str, Any]:
    """Kill schedulers at ``step`` so often; what became of all that was submitted meanwhile, as JSON can hold it.

    At the end the only worker is killed too: what was to be durable has to be there without it.
    """
    ledger, reckoning = Ledger(folder), Reckoning()
    began, graphs = time.monotonic(), 0
    large: list[graph.Node] = []
    with doomed(folder, step) as schedulers:
        worker = [*FUTUREBROKER, "worker", schedulers.url, "--executors", "2"]
        # What it says of each restart would fill the pipe, which nobody reads.
        with running(worker, folder, FUTUREBROKER_SECRET=SECRET, FUTUREBROKER_LOG_LEVEL="error") as program:
            lines_until(program, "serves the scheduler")
            with Client(schedulers.url, secret=SECRET, timeout=HUNG_AFTER) as client:
                while schedulers.kills < kills and not reckoning.lost and graphs < GRAPHS_MOST * kills:
                    graphs += 1
                    nodes = graph.layered(graphs, TASKS, TASK_SECONDS, secrets.token_hex(4))
                    tally = Tally()
                    futures = submit(client, ledger, nodes, tally)
                    tally.wait(len(nodes))  # callbacks come after results
                    for future, node, answer in zip(futures, nodes, graph.answers(nodes)):
                        reckoning.add(future, node, answer, tally, HUNG_AFTER)
                    large += [node for node in nodes if node.padding]
                    del futures, future
                program.kill()
                program.communicate()
        with Client(schedulers.url, secret=SECRET, timeout=HUNG_AFTER) as client:
            found = [client.future(node.key).result(HUNG_AFTER)[1] for node in large]
            durable_lost = sum(padding != b"x" * node.padding for node, padding in zip(large, found))
    rows = ledger.rows()
    counts = {
        "kills": schedulers.kills,
        "graphs": graphs,
        "submitted": graphs * TASKS,
        "accepted": reckoning.accepted,
        "lost": reckoning.lost,
        "wrong_or_twice": reckoning.wrong,
        "executions": len(rows),
        "executed_again": len(rows) - len({key for key, _, _ in rows}),
        "durable": len(large),
        "durable_lost": durable_lost,
    }
    passed = (
        counts["kills"] >= kills
        and counts["accepted"] == counts["submitted"] == counts["executions"]
        and not durable_lost
    )
    seconds = round(time.monotonic() - began, 1)
    return {"passed": passed, "step": step, **counts, "errors": reckoning.errors, "seconds": seconds}
