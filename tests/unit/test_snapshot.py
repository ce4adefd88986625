"""What a dashboard is told, made from two answers of the scheduler and nothing else."""

from __future__ import annotations

from typing import Any

from futurebroker.snapshot import BAD, IDLE, OK, WARNING, KindView, Snapshot, Tracker


def kind(ended: int = 0, errors: int = 0, **states: int) -> dict[str, Any]:
    return {"states": states, "duration": 0.01, "ended": ended, "errors": errors, "nbytes": 0}


def worker(name: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "host": "h", "status": "running", "nthreads": 2, "resources": {}, "used_resources": {},
        "processing": 0, "holds": 0, "occupancy": 0.0, "latency": 0.001, "metrics": {}, "memory_limit": 1000,
        "version": "1", **more,
    }  # fmt: skip


def answer(**parts: Any) -> dict[str, Any]:
    return {
        "now": 0.0, "scheduler": {"pid": 1, "host": "h", "version": "1"}, "kinds": {}, "tasks": {}, "workers": {},
        "queues": [], "programs": {}, "counters": {}, "rejected": {}, **parts,
    }  # fmt: skip


def queue(**more: Any) -> dict[str, Any]:
    return {"queued": 0, "no_worker": 0, "workers": [], "resources": {}, "priority": 0, "eligible": 1, **more}


def only(snapshot: Snapshot) -> KindView:
    (view,) = snapshot.kinds
    return view


def test_rate_and_time_left_come_from_two_answers() -> None:
    """One answer can't tell how fast work goes; a guess would be shown as if it were known."""
    tracker = Tracker()
    first = only(tracker.take(answer(kinds={"f": kind(0, queued=1000)}), 10.0))
    assert (first.rate, first.seconds_left) == (0.0, None)
    second = only(tracker.take(answer(kinds={"f": kind(100, queued=900)}), 11.0))
    assert (second.rate, second.seconds_left) == (100.0, 9.0)
    assert (second.done, second.total) == (100, 1000)


def test_what_nobody_serves_has_no_time_left() -> None:
    """A second from now would be a promise that nobody can keep."""
    tracker = Tracker()
    tracker.take(answer(kinds={"f": kind(0, queued=10, no_worker=3)}), 1.0)
    assert only(tracker.take(answer(kinds={"f": kind(10, no_worker=3)}), 2.0)).seconds_left is None


def test_a_bar_says_when_its_total_grows() -> None:
    """A bar that jumps back looks like lost work unless it says that more has come."""
    tracker = Tracker()
    tracker.take(answer(kinds={"f": kind(5, queued=5)}), 1.0)
    assert only(tracker.take(answer(kinds={"f": kind(6, queued=54)}), 2.0)).grown == 50


def test_new_work_after_a_pause_begins_a_new_bar() -> None:
    """The tenth run of a function starts at nothing done, not at nine tenths."""
    tracker = Tracker()
    tracker.take(answer(kinds={"f": kind(100)}), 1.0)
    tracker.take(answer(kinds={"f": kind(100)}), 9.0)
    view = only(tracker.take(answer(kinds={"f": kind(101, queued=9)}), 10.0))
    assert (view.done, view.total, view.ended) == (1, 10, 101)


def test_a_restarted_scheduler_counts_from_nothing() -> None:
    """Its counts fall back to zero, which is no negative rate."""
    tracker = Tracker()
    tracker.take(answer(kinds={"f": kind(100)}), 1.0)
    again = answer(scheduler={"pid": 2, "host": "h", "version": "1"}, kinds={"f": kind(3, queued=1)})
    view = only(tracker.take(again, 2.0))
    assert (view.done, view.total, view.rate) == (3, 4, 0.0)


def test_health_of_a_cluster_without_workers() -> None:
    """The commonest beginner's mistake is named first, with the way out of it."""
    snapshot = Tracker().take(answer(kinds={"f": kind(no_worker=3)}, queues=[queue(no_worker=3, eligible=0)]), 1.0)
    assert (snapshot.level, snapshot.health) == (BAD, "3 tasks are ready and no worker is connected.")
    assert "futurebroker worker" in snapshot.alerts[0].advice


def test_health_names_each_demand_that_nobody_serves() -> None:
    """Seven that need a GPU and one that is pinned to a worker are two things to mend."""
    gpu = queue(no_worker=7, eligible=0, resources={"GPU": 1})
    pinned = queue(no_worker=1, eligible=0, workers=["big"])
    about = answer(workers={"w": worker()}, queues=[gpu, pinned], kinds={"f": kind(no_worker=8)})
    assert Tracker().take(about, 1.0).health == "Nobody serves 8 tasks: 7 need GPU=1, 1 needs worker big."


def test_health_names_what_nobody_serves() -> None:
    """With workers there, what is missing is what the tasks ask for."""
    waiting = queue(no_worker=1, eligible=0, resources={"GPU": 2})
    snapshot = Tracker().take(answer(workers={"w": worker()}, queues=[waiting], kinds={"f": kind(no_worker=1)}), 1.0)
    assert snapshot.health == "Nobody serves 1 task that needs GPU=2."


def test_health_when_all_is_well() -> None:
    """Idle and busy clusters say so in a sentence that a newcomer understands."""
    idle = Tracker().take(answer(workers={"w": worker()}), 1.0)
    assert (idle.level, idle.health) == (IDLE, "Nothing to do: 1 worker waits for work.")
    tracker = Tracker()
    tracker.take(answer(workers={"w": worker()}, kinds={"f": kind(0, processing=2, queued=8)}), 1.0)
    running = worker(metrics={"executing": 2}, processing=2)
    busy = tracker.take(answer(workers={"w": running}, kinds={"f": kind(2, processing=2, queued=6)}), 2.0)
    assert (busy.level, busy.health) == (OK, "1 worker runs 2 tasks; 8 to go, about 4 s left.")


def test_failures_and_full_memory_are_worth_a_look() -> None:
    """A warning doesn't hide that work goes on."""
    full = worker("big", status="paused", metrics={"unmanaged": 990})
    snapshot = Tracker().take(answer(workers={"w": full}, kinds={"f": kind(1, erred=2)}), 1.0)
    assert snapshot.level == WARNING
    texts = [alert.text for alert in snapshot.alerts]
    assert texts == ["worker big is paused: its memory is full", "2 tasks failed: f"]


def test_a_standstill_is_told_after_a_while() -> None:
    """Work that waits for nothing that could come is noticed, and not before it may have been chance."""
    tracker = Tracker()
    still = answer(workers={"w": worker()}, kinds={"f": kind(1, waiting=4)})
    tracker.take(still, 1.0)
    assert tracker.take(still, 5.0).alerts == []
    (alert,) = tracker.take(still, 16.0).alerts
    assert alert.text == "4 tasks wait and none has run for 11 s"


def test_memory_is_split_into_what_is_known_of_it() -> None:
    """Results, everything else and the disk are three different troubles."""
    metrics = {"process": 600, "unmanaged": 400, "managed": 200, "spilled": 50}
    (view,) = Tracker().take(answer(workers={"w": worker(metrics=metrics)}), 1.0).workers
    assert (view.managed, view.unmanaged, view.spilled, view.fill) == (200, 400, 50, 0.6)
