"""A small history to look things up in."""

from __future__ import annotations

from futurebroker.protocol.history import Batch, Ended, Happened, HistoryOrders, Noted, Stood, TypeTotals

#: when it begins
BEGIN = 1_700_000_000.0


def orders(url: str, *, keep_seconds: float = 0.0, keep_rows: int = 0) -> HistoryOrders:
    """What a writer is told."""
    return HistoryOrders(url, keep_seconds, keep_rows, "c", "host", "1", BEGIN)


def ended(
    key: str, *, kind: str = "t", outcome: str = "finished", worker: str = "w1", started: float | None = BEGIN,
    duration: float | None = 0.5,
) -> Ended:  # fmt: skip
    """A task that ended."""
    begun = BEGIN if started is None else started
    at, took = (None if seconds is None else round(seconds * 1e6) for seconds in (started, duration))
    return Ended(key, kind, outcome, worker, 1, "ann", 1, BEGIN, at, begun + (duration or 0.0), took, 5, "int")


def sample() -> list[Batch]:
    """Four tasks, two events, a snapshot, two notes, and a hundred tasks that were left out."""
    failed = ended("c", kind="load", outcome="failed", started=BEGIN + 2.5, duration=0.25)
    failed.error_type, failed.error, failed.traceback = "KeyError", "missing", "Traceback: missing"
    failed.inputs = ("a", "b", "elsewhere")
    cancelled = ended("d", kind="eval", outcome="cancelled", worker="", started=None, duration=None)
    cancelled.ended = BEGIN + 3.5
    rows = [
        ended("a", kind="train", started=BEGIN + 0.5),
        ended("b", kind="train", worker="w2", started=BEGIN + 1.0, duration=1.5),
        failed,
        cancelled,
    ]
    events = [
        Happened(BEGIN, "task-retried", "w1", "c", "", "KeyError: missing"),
        Happened(BEGIN + 1, "worker-joined", "w2", "", "", "host"),
    ]
    totals = {"load": TypeTotals(0, 1), "eval": TypeTotals(0, 0, 1)}
    snapshots = [Stood(BEGIN + 1, "w1", {"memory": 5}), Stood(BEGIN + 1, "", {"workers": 2})]
    notes = [
        Noted(BEGIN + 2, "c", "w2", "'x.csv'", "", "first try\0\n"),
        Noted(BEGIN + 2.5, "c", "w1", "'x.csv', retries=1", "", "second try 🎈\n"),
    ]
    return [Batch(rows, events, totals, 0, snapshots, notes), Batch([], [], {"train": TypeTotals(100)}, 100, [])]
