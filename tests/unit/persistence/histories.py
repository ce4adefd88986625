"""A small history to look things up in."""

from __future__ import annotations

from futurebroker.persistence.history import Writer
from futurebroker.persistence.lookup import Lookup
from futurebroker.protocol.history import (
    Batch,
    Ended,
    GraphEnds,
    Happened,
    HistoryOrders,
    Noted,
    Stood,
    Submitted,
    TypeTotals,
)

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


def graphs_of(writer: Writer, lookup: Lookup) -> None:
    """Write graphs and their ends piece by piece, and find what they come to."""
    first = Submitted("aa", "ann\0", BEGIN, BEGIN, {"load": 1, "train": 1})
    rows = [ended("a", started=BEGIN + 2), ended("z"), ended("b", outcome="failed", started=None, duration=None)]
    writer.write([Batch(rows, graphs=[first], spans=[(0, "aa"), (1, ""), (2, "aa")])])
    grown = Submitted("aa", "ann\0", BEGIN, BEGIN + 1, {"load": 2, "train": 3})
    other = Submitted("bb", "bob", BEGIN + 2, BEGIN + 2, {f"t{number}": number + 1 for number in range(200)})
    more = GraphEnds(1, 0, 1, BEGIN + 0.5, None, BEGIN + 9)
    late = [ended("c", started=BEGIN + 1), ended("d", outcome="cancelled", started=None, duration=None)]
    writer.write([
        Batch(late[:1], graphs=[first, grown], spans=[(0, "aa")], ends={"aa": more, "gone": GraphEnds(5)}),
        Batch(late[1:], graphs=[other], spans=[(0, "bb")]),
    ])  # fmt: skip
    two, one = lookup.graphs()
    assert {name: one[name] for name in ("graph", "client", "tasks", "types", "finished", "failed", "cancelled")} == {
        "graph": "aa", "client": "ann", "tasks": 5, "types": {"load": 2, "train": 3}, "finished": 3, "failed": 1,
        "cancelled": 1,
    }  # fmt: skip
    assert (one["submitted_at"], one["extended_at"]) == (BEGIN, BEGIN + 1)
    assert (one["started_at"], one["failed_at"], one["ended_at"]) == (BEGIN + 0.5, BEGIN, BEGIN + 9)
    assert (two["tasks"], two["cancelled"], two["started_at"], two["failed_at"]) == (20_100, 1, None, None)
    assert (len(two["types"]), two["types"]["t199"]) == (100, 200)
    assert [row["state"] for row in (two, one)] == ["unfinished", "failed"]
    assert [row["graph"] for row in lookup.graphs(1)] == ["bb"]
    assert lookup.graphs(run=one["run"] + 1) == []


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
