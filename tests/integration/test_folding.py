"""The journal is folded into a checkpoint beside the scheduler, stays small, and is gone on with after a kill."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Self

import psutil
import pytest

from futurebroker import Client
from futurebroker.scheduler.folding import MOST
from tests.integration.killable import Cluster, free_port
from tests.integration.programs import FUTUREBROKER, lines_until, running

SECRET = "s" * 32
LIMIT = 100_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Watch:
    """Looks at a journal over and over while something runs, and keeps the largest it saw."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.journal = self.row = self.checkpoint = 0

    def _look(self) -> None:
        checkpoint = "SELECT coalesce(sum(length(body)), 0) FROM checkpoints WHERE parts > 0 GROUP BY sequence"
        with closing(sqlite3.connect(self._path)) as connection:
            while not self._over.wait(0.02):
                largest, total = connection.execute(
                    "SELECT coalesce(max(length(body)), 0), coalesce(sum(length(body)), 0) FROM journal"
                ).fetchone()
                self.row, self.journal = max(self.row, largest), max(self.journal, total)
                self.checkpoint = max([self.checkpoint, *(size for (size,) in connection.execute(checkpoint))])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def bound(self, limit: int) -> int:
        """What the journal may have; one row may go beyond it, and each has a signature."""
        return MOST * max(limit, self.checkpoint) + self.row + self.journal // 100


def rows(path: Path) -> tuple[int, int, int]:
    """Bytes of the journal, its first row, and parts of complete checkpoints."""
    with closing(sqlite3.connect(path)) as connection:
        nbytes, first = connection.execute(
            "SELECT coalesce(sum(length(body)), 0), min(sequence) FROM journal"
        ).fetchone()
        (parts,) = connection.execute("SELECT count(*) FROM checkpoints WHERE parts > 0").fetchone()
        return int(nbytes), int(first or 0), int(parts)


def test_a_journal_is_folded_and_gone_on_with(tmp_path: Path) -> None:
    """It would fill the disk otherwise; and what was folded must still be all."""
    path = tmp_path / "journal.db"
    port = free_port()
    variables = {
        "FUTUREBROKER_SECRET": SECRET,
        "FUTUREBROKER_DATABASE_URL": f"sqlite:///{path}",
        "FUTUREBROKER_JOURNAL_LIMIT": str(LIMIT),
    }
    command = [*FUTUREBROKER, "scheduler", "--port", str(port)]
    worker = [*FUTUREBROKER, "worker", f"127.0.0.1:{port}", "--executors", "1"]
    with running(worker, tmp_path, **variables) as agent:
        with contextlib.ExitStack() as stack:
            scheduler = stack.enter_context(running(command, tmp_path, **variables))
            lines_until(scheduler, "stop with")
            client = stack.enter_context(Client(f"127.0.0.1:{port}", secret=SECRET, timeout=60))
            kept = client.submit(pow, 2, 64, keep=600.0)
            open_ended = client.submit(pow, 2, 3, workers="nobody")
            folds: set[int] = set()
            while len(folds) < 3:
                numbers = range(2000)
                assert sum(client.gather(client.map(abs, numbers))) == sum(numbers)
                _, first, parts = rows(path)
                if parts:
                    folds.add(first)
            # What came while a process folded is folded by the next.
            while rows(path)[0] > 2 * LIMIT:
                assert client.submit(abs, -1).result(30) == 1
            scheduler.kill()
            scheduler.communicate()
            with running(command, tmp_path, **variables) as second:
                lines_until(second, "stop with")
                assert client.submit(abs, -1).result(30) == 1
                assert client.future(kept.key).result(30) == 2**64
                assert not open_ended.done()
                assert "nobody" in client.why(open_ended)
                second.terminate()
                _, said = second.communicate(timeout=30)
                assert "a checkpoint of" in said
        agent.kill()
        agent.communicate()


def test_a_journal_of_200_000_tasks_stays_small(tmp_path: Path) -> None:
    """Whatever runs beside; it had more than twenty times as much if it were not folded."""
    limit = 500_000
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path, stack, FUTUREBROKER_JOURNAL_LIMIT=str(limit), FUTUREBROKER_VALIDATE="false")
        with cluster.client() as client, Watch(cluster.database) as watch:
            for _ in range(20):
                assert sum(client.gather(client.map(abs, range(10_000)))) == sum(range(10_000))
    assert limit < watch.journal < watch.bound(limit), vars(watch)


def test_a_journal_that_is_written_faster_than_folded_waits(tmp_path: Path) -> None:
    """The process that folds it is stopped: nobody is told what isn't written, until it goes on."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path, stack, FUTUREBROKER_JOURNAL_LIMIT=str(LIMIT), FUTUREBROKER_VALIDATE="false")
        with cluster.client() as client, Watch(cluster.database) as watch:
            for _ in range(10):
                folder = stopped_folder(cluster, client)
                futures = client.map(abs, range(30_000))
                try:
                    futures[-1].result(5)
                except TimeoutError:
                    break
                folder.resume()  # it had done its work when it was stopped
            else:
                pytest.fail("the journal doesn't wait for who folds it")
            folder.resume()
            assert sum(client.gather(futures)) == sum(range(30_000))
            cluster.scheduler.terminate()
            _, said = cluster.scheduler.communicate(timeout=30)
    assert "it has grown to its limit" in said
    assert "the journal is written again" in said
    assert watch.journal < watch.bound(LIMIT), vars(watch)


def stopped_folder(cluster: Cluster, client: Client) -> psutil.Process:
    """Have tasks run until the journal is folded, and stop the process that does it."""
    while True:
        assert sum(client.gather(client.map(abs, range(2000)))) == sum(range(2000))
        for child in psutil.Process(cluster.scheduler.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("futurebroker.scheduler.folder" in part for part in child.cmdline()):
                    child.suspend()
                    return child
