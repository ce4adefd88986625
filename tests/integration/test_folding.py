"""The journal is folded into a checkpoint beside the scheduler, stays small, and is gone on with after a kill."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from futurebroker import Client
from tests.integration.killable import free_port
from tests.integration.programs import FUTUREBROKER, lines_until, running

SECRET = "s" * 32
LIMIT = 100_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


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
