"""What the scheduler notes for the history: each end of a task once, with what people ask about it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from futurebroker.protocol import messages as m
from futurebroker.protocol.history import CANCELLED, FAILED, FINISHED, Batch, Ended, Noted, TypeTotals, add_finished
from futurebroker.scheduler import chronicle as chronicle_module
from futurebroker.scheduler.chronicle import Chronicle
from futurebroker.scheduler.commands import ClientGone, WorkerLost, WorkerSuspected
from tests.unit.scheduler.play import BIG, Play, failure, finished, submit

#: what the machine's clock is behind that of people
OFFSET = 1_000_000.0


@pytest.fixture
def play() -> Play:
    """A machine with one worker and a chronicle."""
    play = Play("w")
    play.state.chronicle = Chronicle(play.state.moments.when, play.state.graphs)
    play.state.chronicle.offset = OFFSET
    return play


def taken(play: Play) -> Batch:
    """What was noted."""
    assert play.state.chronicle is not None
    batch = play.state.chronicle.take() or Batch()
    return msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch)  # as the writer gets it


def test_a_finished_task_is_a_row_with_its_times_and_inputs(play: Play) -> None:
    """Who asks about last week's run asks where, when, how long, how large and from what."""
    play.now = 5.0
    play.ann(submit("a"), submit("b", "a"))
    play.worker("w", finished("a", 1, BIG))
    report = m.Finished("b", 2, 7, 250_000, b"1", "", "int", 1_000_004_500_000, 3)
    play.now = 5.5
    play.worker("w", report)
    batch = taken(play)
    assert batch.rows[1] == Ended(
        "b", "f", FINISHED, "w", 3, "ann", 1, OFFSET + 5.0, 1_000_004_500_000, OFFSET + 5.5, 250_000, 7, "int", ("a",)
    )  # fmt: skip
    add_finished(batch.totals, batch.rows)
    assert batch.totals == {"f": TypeTotals(2, 0, 0, 251_000, len(BIG) + 7)}
    assert taken(play) == Batch()


def test_a_failure_names_its_cause_once(play: Play) -> None:
    """Those that fail with a task say with which; the traceback, which may be long, is in one row only."""
    play.ann(submit("a"), submit("b", "a"))
    cause = m.Failure("ValueError", "no", "Traceback ...", "a", "w")
    play.worker("w", m.Erred("a", 1, cause, 2_000, 1_000_004_000_000, 4))
    first, second = taken(play).rows
    assert (first.key, first.outcome, first.executor, first.duration, first.traceback) == (
        "a", FAILED, 4, 2_000, "Traceback ...",
    )  # fmt: skip
    assert (second.key, second.outcome, second.error, second.traceback) == ("b", FAILED, "no", "")


def test_a_retried_task_is_an_event_and_then_one_row(play: Play) -> None:
    """Attempts that came to nothing belong to the story, not to the counts."""
    play.ann(submit("a", retries=1))
    play.worker("w", m.Erred("a", 1, failure("a")))
    play.worker("w", finished("a", 2))
    batch = taken(play)
    assert [(event.kind, event.key, event.text) for event in batch.events] == [("task-retried", "a", "ValueError: no")]
    assert [(row.outcome, row.attempts) for row in batch.rows] == [(FINISHED, 2)]


def test_what_nobody_needs_any_more_is_cancelled(play: Play) -> None:
    """A client that leaves takes its unfinished work with it, and people ask where that went."""
    play.ann(submit("a"), submit("b", "a"))
    play.handle(ClientGone("ann"))
    batch = taken(play)
    assert {(row.key, row.outcome) for row in batch.rows} == {("a", CANCELLED), ("b", CANCELLED)}
    assert batch.totals["f"].cancelled == 2
    assert [event.kind for event in batch.events] == ["client-left"]


def test_workers_that_come_and_go_are_events(play: Play) -> None:
    """An hour without workers explains an hour without results."""
    play.join("v")
    play.handle(WorkerSuspected("v"), WorkerLost("v"), WorkerLost("w", expected=True))
    batch = taken(play)
    assert [(event.kind, event.worker) for event in batch.events] == [
        ("worker-joined", "v"), ("worker-suspected", "v"), ("worker-lost", "v"), ("worker-left", "w"),
    ]  # fmt: skip
    about: dict[str, Any] = {"resources": {}}
    assert [(one.worker, one.name, one.host, one.about, one.gone) for one in batch.workers] == [
        ("v", "v", "h", about, False), ("v", "v", "h", about, True), ("w", "w", "h", about, True),
    ]  # fmt: skip


def test_rows_beyond_the_bound_are_counted_and_totals_stay_right(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler whose writer can't follow must not fill its memory, nor lie about how much was done."""
    monkeypatch.setattr(chronicle_module, "ROWS_MOST", 3)
    for number in range(5):
        play.ann(submit(f"k{number}"))
        play.worker("w", finished(f"k{number}", number + 1))
    batch = taken(play)
    assert (len(batch.rows), batch.dropped, batch.totals["f"].finished) == (3, 2, 2)
    add_finished(batch.totals, batch.rows)
    assert batch.totals["f"].finished == 5


def test_notes_go_to_the_history_up_to_a_bound(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tasks print may be much more than what is known of them."""
    monkeypatch.setattr(chronicle_module, "NOTES_MOST", 25)
    told = [["a", 1.0, "1", "2", "x" * 10], ["b", 2.0, "", "", "y" * 10], ["c", 3.0, "", "", "z" * 10]]
    play.worker("w", m.Said("notes", "", [told, 0]))
    batch = taken(play)
    assert batch.notes == [Noted(1.0, "a", "w", "1", "2", "x" * 10), Noted(2.0, "b", "w", "", "", "y" * 10)]
    assert batch.dropped == 1
    assert play.state.chronicle is not None
    assert play.state.chronicle.take() is None
    play.worker("w", m.Said("notes", "", [told[2:], 0]))
    assert len(taken(play).notes) == 1
