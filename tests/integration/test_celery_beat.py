"""Schedules fire exactly once for each moment, whatever becomes of the scheduler that leads: real processes, killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client
from futurebroker.celery import Celery
from futurebroker.scheduler.beat import Entry, key_of
from tests.integration.brokers import SECRET, embedded_broker
from tests.integration.celery_rows import shows
from tests.integration.programs import FUTUREBROKER, lines_until, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

EVERY = 0.5
WAIT = 60.0
#: times at which nobody leads: three takeovers, and some more on a machine that is too busy to fire
GAPS = 8
APP = """
import os, time
from futurebroker.celery import Celery
app = Celery("beatapp")
app.conf.task_ignore_result = True

@app.task(bind=True)
def tick(self):
    with open(os.environ["TICKS"], "a") as file:
        file.write(f"{self.request.id} {time.time()}\\n")

app.conf.beat_schedule = {"tick": {"task": "beatapp.tick", "schedule": 0.5, "relative": True}}
"""


class Ticks:
    """What the schedule's task wrote: an id and a time each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[tuple[str, float]]:
        """All of them, in order."""
        rows = [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []
        return [(name, float(at)) for name, at in rows]

    def wait_for(self, more: int) -> None:
        """Until so many more have come."""
        least = len(self.read()) + more
        until(lambda: len(self.read()) >= least)

    def check(self) -> None:
        """No moment has fired twice, and none is missing but while nobody led.

        A moment's id follows from it, so ids tell which moments fired. After a gap one firing makes up for all that
        were missed, at a moment of its own.
        """
        rows = self.read()
        names = [name for name, _ in rows]
        assert len(set(names)) == len(names), "a moment fired twice"
        entry = Entry("tick", "beatapp", [], "", b"", b"", b"", None)
        first, last = rows[0][1] // EVERY - 2, rows[-1][1] // EVERY + 2
        moments = {key_of(entry, number * EVERY): number * EVERY for number in range(int(first), int(last))}
        fired = sorted(moments[name] for name in names if name in moments)
        assert len(names) <= (last - first), "it fired more often than it was due"
        assert len(names) - len(fired) <= GAPS, "it fired when it was not due"
        missing = [now - before for before, now in pairwise(fired) if now - before > EVERY * 1.5]
        assert len(missing) <= GAPS, f"moments are missing: {missing}"


def until(condition: Callable[[], Any]) -> Any:
    """Wait for what other processes do."""
    end = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


@contextmanager
def asking(url: str) -> Iterator[Callable[..., Any]]:
    """Asks the scheduler as an app does."""
    with Client(url, secret=SECRET.decode(), timeout=60, set_as_default=False) as client:
        asker = Celery("asker", set_as_current=False)
        asker.use_client(client)
        yield asker.sender.ask
        asker.close()


@shows(
    "rest", "exactly one firing for each moment, with standbys, `kill -9` and restarts; `run_schedule` fires one now"
)
def test_each_moment_fires_once_whoever_leads(tmp_path: Path) -> None:
    """Beat must not run twice in Celery, and is not replaced when it dies."""
    (tmp_path / "beatapp.py").write_text(APP)
    ticks = Ticks(tmp_path / "ticks")
    variables = {
        "FUTUREBROKER_SECRET": SECRET.decode(),
        "FUTUREBROKER_DATABASE_URL": f"sqlite:///{tmp_path}/journal.db",
        "TICKS": str(ticks.path),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]),
    }
    with embedded_broker(heartbeat=2) as broker:
        scheduler = [*FUTUREBROKER, "scheduler", "--broker", broker.url]
        serving = [*FUTUREBROKER, "worker", broker.url, "-A", "beatapp", "-c", "1"]
        with running(serving, tmp_path, **variables) as worker:
            with running(scheduler, tmp_path, **variables) as leader:
                lines_until(leader, "stop with")
                ticks.wait_for(4)
                with running([*scheduler, "--standby"], tmp_path, **variables) as second:
                    lines_until(second, "waiting to lead")
                    leader.kill()
                    leader.wait()
                    lines_until(second, "stop with")
                    ticks.wait_for(4)
                    with running([*scheduler, "--standby"], tmp_path, **variables) as third:
                        lines_until(third, "waiting to lead")
                        second.send_signal(signal.SIGSTOP)  # it only stands still, and will believe that it leads
                        lines_until(third, "stop with")
                        ticks.wait_for(4)
                        second.send_signal(signal.SIGCONT)
                        assert second.wait(60) == 1
                        ticks.wait_for(4)
                        third.kill()
                        third.wait()
            with running(scheduler, tmp_path, **variables) as fourth:
                lines_until(fourth, "stop with")
                ticks.wait_for(4)
                ticks.check()
                _run_now(broker.url, ticks)
                worker.terminate()
                worker.communicate()
                fourth.terminate()
                assert fourth.wait(30) == 0
        count = len(ticks.read())
        with running(scheduler, tmp_path, **variables) as last:  # no worker tells it of the schedule
            lines_until(last, "stop with")
            with asking(broker.url) as ask:
                (entry,) = ask("schedules")
            assert entry["runs"] >= count
            assert abs(entry["last"] - time.time()) < WAIT
            last.terminate()
            assert last.wait(30) == 0


def _run_now(url: str, ticks: Ticks) -> None:
    """Beside its schedule, which goes on as if nothing had been."""
    with asking(url) as ask:
        name = ask("run_schedule", "tick")
        until(lambda: name in dict(ticks.read()))
        ticks.wait_for(2)
    assert [one for one, _ in ticks.read()].count(name) == 1
    rows = [row for row in ticks.read() if row[0] != name]
    ticks.path.write_text("".join(f"{one} {at}\n" for one, at in rows))
    ticks.check()
