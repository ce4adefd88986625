"""What dashboards ask the machine: counts without a walk over all tasks, and lists with an end."""

from __future__ import annotations

import statistics
import time

import msgspec
import pytest

from futurebroker.protocol import messages as m
from futurebroker.scheduler import stories, viewing
from futurebroker.scheduler.moments import MOST, Moments
from futurebroker.scheduler.recent import KEPT, LEASE, Recent
from tests.unit.scheduler.play import Play, finished, submit


def test_moments_tell_when_a_number_was_given() -> None:
    """The age of the oldest task must not cost a word in each of a million records."""
    moments = Moments()
    moments.note(10, 1.0)
    moments.note(50, 1.5)  # too soon after the other to be worth a note
    moments.note(100, 3.0)
    assert [moments.when(number) for number in (10, 11, 100, 101, 10**9)] == [None, 1.0, 1.0, 3.0, 3.0]


def test_moments_stay_few_over_months() -> None:
    """Old notes get coarser, new ones stay exact, and their number stays bounded."""
    moments = Moments()
    for second in range(3 * MOST):
        moments.note(second, float(second) * 2)
    assert moments.when(3 * MOST) == (3 * MOST - 1) * 2.0
    assert (moments.when(100) or 0) <= 200.0
    assert len(moments._times) <= MOST


def note(recent: Recent, now: float, key: str) -> None:
    """A run of half a second ends."""
    play = Play("w-1")
    play.ann(submit(key))
    recent.note(play.task(key), play.state.workers["w-1"], finished(key, 1, seconds=0.5), now, 0.0)


def test_recent_ends_are_kept_only_while_somebody_asks() -> None:
    """A closed page costs nothing."""
    recent = Recent()
    assert not recent.active
    assert recent.since(0, 10.0)["last"] == 0
    assert recent.active
    note(recent, 11.0, "f-1")
    assert recent.since(0, 11.0)["key"] == ("f-1",)
    assert recent.since(1, 11.0)["key"] == ()
    note(recent, 12.0 + LEASE, "f-2")
    assert not recent.active


def test_what_ended_while_somebody_looked_is_told_with_its_task() -> None:
    """Of a cluster without a history, too: where it ran, how long it waited and took."""
    play = Play("w1")
    viewing.overview(play.state, None)
    play.ann(submit("a"))
    play.now = 2.0
    play.worker("w1", finished("a", play.task("a").attempt, seconds=1.5))
    (row,) = viewing.find(play.state, {})["rows"]
    assert (row["worker"], row["took"], row["ended"]) == ("w1", 1.5, 0.0)
    assert row["submitted"] == 2.0
    (start, _, began, *_), (stop, _, ended, *_), _ = stories.story(play.state, ["a"])
    assert (began, ended, stop - start) == ("began", "finished", 1.5)


def test_ends_that_are_recorded_are_kept_until_that_is_over() -> None:
    """A client that records may take as long as it likes, and more fits than a page shows; the pages see them too."""
    recent = Recent()
    assert not recent.record(True)
    assert recent.record(True)
    for number in range(KEPT + 5):
        note(recent, 10 * LEASE, str(number))
    assert len(list(recent)) == KEPT + 5
    assert recent.since(0, 10 * LEASE)["duration"][0] == 0.5
    assert recent.record(False)
    assert len(list(recent)) == KEPT
    note(recent, 20 * LEASE, "later")
    assert (recent.active, list(recent)) == (False, [])


def test_who_asks_too_seldom_is_told_what_was_missed() -> None:
    """A gap that isn't named reads as an idle cluster."""
    recent = Recent()
    recent.since(0, 0.0)
    for number in range(KEPT + 5):
        note(recent, 1.0, str(number))
    assert recent.since(1, 1.0)["missed"] == 4


def test_a_run_ended_when_its_worker_says_unless_its_clock_is_wrong() -> None:
    """Reports come many at a time, and runs that seem to overlap would be drawn on two lines."""
    play = Play("w1")
    play.state.about.update(time=1000.0, moment=0.0)
    viewing.overview(play.state, None)
    play.ann(submit("a"), submit("b"))
    play.now = 2.0
    for key, started in (("a", 1001.25), ("b", 5000.0)):
        report = finished(key, play.task(key).attempt, seconds=0.5)
        report.started, report.executor = round(started * 1e6), 3
        play.worker("w1", report)
    seen = viewing.recent(play.state, {"since": 0})
    assert (seen["key"], seen["end"], seen["executor"]) == (("a", "b"), (1.75, 2.0), (3, 3))


def test_kinds_stay_connected_when_their_tasks_are_done() -> None:
    """What small results were made of is forgotten; what kind it was is not."""
    play = Play("w1")
    play.ann(m.AddFunction(b"g" * 16, "g", b"code"), submit("a"))
    play.ann(m.Submit(b"g" * 16, ["b"], [b""], [("a",)], None))
    for key in "ab":
        play.worker("w1", finished(key, play.task(key).attempt))
    assert play.task("b").dependencies == ()
    assert viewing.graph(play.state, None)["edges"] == [["f", "g", 1]]


def test_a_wide_graph_shows_chains_and_not_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of chains some are drawn whole; of one kind, its tasks with their neighbours."""
    monkeypatch.setattr(viewing, "GRAPH_TASKS", 6)
    play = Play()
    play.ann(*(submit(f"a{number}") for number in range(10)))
    play.ann(*(submit(f"b{number}", f"a{number}") for number in range(10)))
    seen = viewing.graph(play.state, {"by": "task"})
    assert sorted(seen["edges"]) == [["a0", "b0"], ["a1", "b1"], ["a2", "b2"]]
    assert len(seen["nodes"]) == 6
    assert seen["known"] == 20


def test_an_open_dashboard_costs_the_scheduler_little() -> None:
    """One walk a second over a large cluster, with its answer encoded: under two percent of a core.

    100 workers and 400 kinds with 4,000 tasks; the thread's own time counts, so that a busy machine is none of it.
    """
    play = Play(*(f"w{number}" for number in range(100)))
    said: list[m.Message] = []
    for number in range(viewing.KINDS):
        digest = number.to_bytes(16, "big")
        keys = [f"{number}-{part}" for part in range(10)]
        said += [m.AddFunction(digest, f"kind{number}", b"code"), m.Submit(digest, keys, [b""] * 10, None, None)]
    play.ann(*said)
    times = []
    for _ in range(9):
        began = time.thread_time()
        answer = msgspec.msgpack.encode(viewing.overview(play.state, None), enc_hook=str)
        times.append(time.thread_time() - began)
    assert len(answer) > 40_000
    assert statistics.median(times) < 0.02
