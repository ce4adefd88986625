"""What the scheduler hands to the process that writes the history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from futurebroker.types import Key

FINISHED, FAILED, CANCELLED = "finished", "failed", "cancelled"


class Ended(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """A task that ended; times are since 1970. Fields that few tasks have stand last."""

    key: Key
    type: str  #: its kind's name
    outcome: str
    worker: str  #: its name
    executor: int
    client: str  #: one that wanted it
    attempts: int
    submitted: float | None  #: seconds
    started: int | None  #: microseconds, by the worker's clock
    ended: float  #: seconds
    duration: int | None  #: microseconds in user code
    nbytes: int  #: of the result
    result_type: str = ""
    inputs: tuple[Key, ...] = ()
    error_type: str = ""
    error: str = ""
    traceback: str = ""


class Happened(msgspec.Struct, array_like=True, gc=False):
    """Something that happened to a worker, to a client or to one run of a task; what doesn't apply is empty."""

    at: float
    kind: str
    worker: str
    key: Key
    client: str
    text: str


class Noted(msgspec.Struct, array_like=True, gc=False):
    """What was noted of one run of a task: what it printed, and its arguments and result in words."""

    at: float
    key: Key
    worker: str
    arguments: str
    result: str
    output: str


class Came(msgspec.Struct, array_like=True, gc=False):
    """A worker that joined, or is gone."""

    at: float
    worker: str  #: its id, which no other worker ever has
    name: str
    host: str
    about: dict[str, Any]
    gone: bool = False


class Stood(msgspec.Struct, array_like=True, gc=False):
    """How a worker, or the whole cluster (empty), stood at a moment."""

    at: float
    worker: str
    figures: dict[str, Any]


class TypeTotals(msgspec.Struct, array_like=True):
    """What the tasks of one type came to; grows where rows are left out as well."""

    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    micros: int = 0  #: in user code
    nbytes: int = 0  #: of results

    def add(self, other: TypeTotals) -> None:
        """Both together."""
        self.finished += other.finished
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.micros += other.micros
        self.nbytes += other.nbytes


class Submitted(msgspec.Struct, array_like=True, gc=False):
    """A graph, as far as it was submitted."""

    graph: str  #: its digest
    client: str
    at: float
    extended_at: float
    types: dict[str, int]  #: by type, how many tasks it has


class GraphEnds(msgspec.Struct, array_like=True, gc=False):
    """What tasks of a graph came to, and when: the first began, the first failed, the last ended."""

    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    started: float | None = None
    failed_at: float | None = None
    ended: float = 0.0

    def count(self, outcome: str, started: float | None, ended: float) -> None:
        """One more task has ended."""
        if outcome == FINISHED:
            self.finished += 1
        elif outcome == FAILED:
            self.failed += 1
            self.failed_at = _first(self.failed_at, ended)
        else:
            self.cancelled += 1
        self.started = _first(self.started, started)
        self.ended = max(self.ended, ended)

    def add(self, other: GraphEnds) -> None:
        """Both together."""
        self.finished += other.finished
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.started = _first(self.started, other.started)
        self.failed_at = _first(self.failed_at, other.failed_at)
        self.ended = max(self.ended, other.ended)


def _first(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class Batch(msgspec.Struct, array_like=True):
    """What was noted in a fraction of a second."""

    rows: list[Ended] = []
    events: list[Happened] = []
    totals: dict[str, TypeTotals] = {}  #: by type, without what those of `rows` say that finished
    dropped: int = 0  #: rows and events left out
    snapshots: list[Stood] = []
    notes: list[Noted] = []
    workers: list[Came] = []
    graphs: list[Submitted] = []
    #: from which of `rows` on they are of which graph; empty: of none that is known
    spans: list[tuple[int, str]] = []
    ends: dict[str, GraphEnds] = {}  #: by graph, without what `rows` say


def add_graphs(ends: dict[str, GraphEnds], rows: list[Ended], spans: list[tuple[int, str]]) -> None:
    """Count ``rows`` for their graphs."""
    stops = [*(first for first, _ in spans[1:]), len(rows)]
    for (first, graph), stop in zip(spans, stops, strict=False):
        if not graph or first >= stop:
            continue
        of_graph = ends.setdefault(graph, GraphEnds())
        for row in rows[first:stop]:
            of_graph.count(row.outcome, None if row.started is None else row.started * 1e-6, row.ended)


def add_finished(totals: dict[str, TypeTotals], rows: Iterable[Ended]) -> None:
    """Count those of ``rows`` that finished."""
    for row in rows:
        if row.outcome == FINISHED:
            of_type = totals.get(row.type)
            if of_type is None:
                of_type = totals[row.type] = TypeTotals()
            of_type.finished += 1
            of_type.micros += row.duration or 0
            of_type.nbytes += row.nbytes


class HistoryOrders(msgspec.Struct):
    """What the writer is told first of all."""

    url: str
    keep_seconds: float  #: 0: for ever
    keep_rows: int  #: of each table; 0: all
    cluster: str
    host: str
    version: str
    started_at: float
