"""A history that can't be written as fast as tasks end: rows are left out, totals are not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from futurebroker.persistence.lookup import Lookup
from futurebroker.protocol import messages as m
from futurebroker.protocol.history import HistoryOrders
from futurebroker.scheduler import historian as historian_module
from futurebroker.scheduler.historian import Historian
from tests.unit.scheduler.play import Play, failure, finished, submit

TASKS = 20


def run_tasks(play: Play, name: str) -> None:
    """Each ends on the only worker, all but the last well."""
    for number in range(TASKS):
        key = f"{name}{number}"
        play.ann(submit(key))
        attempt = play.task(key).attempt
        if number < TASKS - 1:
            play.worker("w", finished(key, attempt, seconds=0.5))
        else:
            play.worker("w", m.Erred(key, attempt, failure(key), 250_000, 0, 1))


def test_what_waits_too_long_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once; how much was done stays right, which the dashboard shows for each type."""
    url = f"sqlite:///{tmp_path / 'history.db'}"

    async def live() -> None:
        play = Play("w")
        orders = HistoryOrders(url, 0.0, 0, "c", "h", "1", time.time())
        historian = Historian(play.state, asyncio.get_running_loop(), orders)
        run_tasks(play, "kept")
        historian.look()
        monkeypatch.setattr(historian_module, "WAITING_MOST", -1)
        for name in ("one", "two"):
            run_tasks(play, name)
            historian.look()
        assert historian.dropped == 2 * TASKS
        await historian.close()

    said: list[str] = []
    monkeypatch.setattr(historian_module.logger, "warning", lambda text, *_: said.append(text))
    asyncio.run(live())
    assert len([text for text in said if "leaves out tasks" in text]) == 1
    lookup = Lookup(url, "c")
    assert lookup.search("")["total"] == TASKS
    (row,) = lookup.types()
    assert (row["finished"], row["failed"]) == (3 * (TASKS - 1), 3)
    assert row["seconds"] == pytest.approx(3 * ((TASKS - 1) * 0.5 + 0.25))
    assert [run["dropped"] for run in lookup.runs()] == [2 * TASKS]
    lookup.close()
