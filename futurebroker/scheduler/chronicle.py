"""Notes what people will look up later: tasks that ended, and what happened to tasks and workers (sans-IO).

What must survive is the journal's, see `recording`; this may be left out under overload. Without a history
`SchedulerState.chronicle` is None and nothing is noted. Rows collect until somebody takes them; beyond `ROWS_MOST` they
are only counted. The totals of each kind are right in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.protocol.history import (
    CANCELLED,
    FAILED,
    FINISHED,
    Batch,
    Came,
    Ended,
    GraphEnds,
    Happened,
    Noted,
    Submitted,
    TypeTotals,
)
from futurebroker.protocol.messages import Erred, Failure, Finished
from futurebroker.scheduler.graphs import Graph, Graphs
from futurebroker.scheduler.notes import Note
from futurebroker.scheduler.records import ORDER_MASK, ClientRecord, TaskRecord, WorkerRecord
from futurebroker.types import Key

#: rows and events that wait to be taken, at the most
ROWS_MOST = 100_000
EVENTS_MOST = 10_000
#: characters of notes that wait to be taken, at the most
NOTES_MOST = 8_000_000
#: what is kept of what a worker says of itself
TOLD = ("executors", "threads", "pid", "python", "platform", "memory_limit", "resources")
#: inputs that are named of a task
INPUTS_MOST = 50
#: characters of an error's message and of a traceback
MESSAGE_MOST = 1_000
TRACEBACK_MOST = 20_000
#: running numbers that are taken to be submitted together, to within what `moments` can tell
_TOGETHER = 64


class Chronicle:
    """See the top of this file.

    Args:
        when: the machine's time at which a running number was submitted; None when nobody knows.
        graphs: which of them were submitted together.
    """

    __slots__ = ("_batch", "_erred", "_graph", "_graphs", "_noted", "_numbers", "_submitted", "_when", "offset")

    def __init__(self, when: Callable[[int], float | None], graphs: Graphs) -> None:
        self.offset = 0.0  #: seconds from the machine's time to that since 1970; kept right by whoever drives it
        self._when = when
        self._graphs = graphs
        graphs.look_at_all()
        self._batch = Batch()
        #: the graph of the newest row
        self._graph: Graph | None = None
        self._noted = 0
        #: the last range of running numbers that was asked for, and when it was submitted
        self._numbers = range(0)
        self._submitted: float | None = None
        #: the report that makes a task fail, while that goes on
        self._erred: Erred | None = None

    # -- tasks ------------------------------------------------------------------------------------------------------

    def finished(self, now: float, task: TaskRecord, worker: WorkerRecord, report: Finished) -> None:
        """A task's result is there; its record still tells of the run."""
        rows = self._batch.rows
        if len(rows) >= ROWS_MOST:
            self._leave_out(now, task, FINISHED)
            totals = self._totals(task.kind.name)
            totals.finished += 1
            totals.micros += report.duration
            totals.nbytes += report.nbytes
            return
        number = task.order & ORDER_MASK
        if number not in self._numbers:
            self._look_up(number)
        wanted = task.wanted_by
        # An `Ended` as it is encoded: a tuple is made in half the time, and this is done for every task.
        row: Any = (
            task.key, task.kind.name, FINISHED, worker.name, report.executor,
            wanted.client_id if type(wanted) is ClientRecord else _client(task), 1 + task.retried + task.deaths,
            self._submitted, report.started or None, now + self.offset, report.duration, report.nbytes, report.type,
        )  # fmt: skip
        if task.dependencies:
            row = (*row, tuple([one.key for one in task.dependencies[:INPUTS_MOST]]))
        rows.append(row)

    def erring(self, report: Erred | None) -> None:
        """A worker's report is about to make its task fail; None: that is over."""
        self._erred = report

    def failed(self, now: float, task: TaskRecord, failure: Failure) -> None:
        """A task failed for good, by itself or with another."""
        totals = self._totals(task.kind.name)
        totals.failed += 1
        report = self._erred if self._erred is not None and self._erred.key == task.key else None
        if report is not None:
            totals.micros += report.duration
        row = self._unfinished(now, task, FAILED)
        if row is None:
            return
        if report is not None and report.started:
            row.executor = report.executor
            row.started, row.duration = report.started, report.duration
        row.worker = row.worker or failure.worker
        row.error_type = failure.type
        row.error = failure.message[:MESSAGE_MOST]
        if failure.key == task.key:  # of those that failed with another, that one's row has it
            row.traceback = failure.traceback[-TRACEBACK_MOST:]

    def cancelled(self, now: float, task: TaskRecord) -> None:
        """Nobody needs a task any more that has not ended."""
        self._totals(task.kind.name).cancelled += 1
        self._unfinished(now, task, CANCELLED)

    def _unfinished(self, now: float, task: TaskRecord, outcome: str) -> Ended | None:
        if len(self._batch.rows) >= ROWS_MOST:
            self._leave_out(now, task, outcome)
            return None
        worker = task.worker.name if task.worker is not None else ""
        attempts = (1 if task.attempt else 0) + task.retried + task.deaths
        row = Ended(
            task.key, task.kind.name, outcome, worker, 0, _client(task), attempts, self._submission(task), None,
            now + self.offset, None, 0,
        )  # fmt: skip
        row.inputs = tuple([one.key for one in task.dependencies[:INPUTS_MOST]])
        self._batch.rows.append(row)
        return row

    def _leave_out(self, now: float, task: TaskRecord, outcome: str) -> None:
        self._batch.dropped += 1
        graph, _, _ = self._graphs.around(task.order & ORDER_MASK)
        if graph is not None:
            self._batch.ends.setdefault(graph.digest, GraphEnds()).count(outcome, None, now + self.offset)

    def _totals(self, kind: str) -> TypeTotals:
        totals = self._batch.totals.get(kind)
        if totals is None:
            totals = self._batch.totals[kind] = TypeTotals()
        return totals

    def _submission(self, task: TaskRecord) -> float | None:
        number = task.order & ORDER_MASK
        if number not in self._numbers:
            self._look_up(number)
        return self._submitted

    def _look_up(self, number: int) -> None:
        first = number - number % _TOGETHER
        graph, start, stop = self._graphs.around(number)
        self._numbers = range(max(first, start), min(first + _TOGETHER, stop))
        if graph is not self._graph or not self._batch.spans:
            self._graph = graph
            self._batch.spans.append((len(self._batch.rows), graph.digest if graph is not None else ""))
        when = self._when(number)
        self._submitted = None if when is None else when + self.offset

    # -- events -----------------------------------------------------------------------------------------------------

    def note(self, now: float, kind: str, *, worker: str = "", key: Key = "", client: str = "", text: str = "") -> None:
        """Something happened that is worth a line: to a worker, a client, or one run of a task."""
        events = self._batch.events
        if len(events) >= EVENTS_MOST:
            self._batch.dropped += 1
            return
        events.append(Happened(now + self.offset, kind, worker, key, client, text[:MESSAGE_MOST]))

    def came(self, now: float, worker: str, info: dict[str, Any], *, gone: bool = False) -> None:
        """A worker has joined, or is gone."""
        workers = self._batch.workers
        if len(workers) >= EVENTS_MOST:
            self._batch.dropped += 1
            return
        about = {name: info[name] for name in TOLD if info.get(name) is not None}
        name, host = str(info.get("name") or worker), str(info.get("host") or "")
        workers.append(Came(now + self.offset, worker, name, host, about, gone))

    def noted(self, note: Note) -> None:
        """An executor noted something of a run of a task; beyond `NOTES_MOST` nothing of it is kept."""
        size = len(note.arguments) + len(note.result) + len(note.output)
        if self._noted + size > NOTES_MOST:
            self._batch.dropped += 1
            return
        self._noted += size
        self._batch.notes.append(Noted(note.at, note.key, note.worker, note.arguments, note.result, note.output))

    # -- taking -----------------------------------------------------------------------------------------------------

    def take(self) -> Batch | None:
        """All that was noted since the last call; None when nothing was."""
        batch = self._batch
        if self._graphs.changed:
            grown, self._graphs.changed = self._graphs.changed, {}
            offset = self.offset
            batch.graphs = [
                Submitted(one.digest, one.client, one.at + offset, one.extended_at + offset, dict(one.types))
                for one in grown
            ]
        if not (batch.rows or batch.events or batch.totals or batch.notes or batch.workers or batch.graphs):
            return None
        self._batch = Batch()
        self._noted = 0
        self._numbers = range(0)
        return batch


def _client(task: TaskRecord) -> str:
    wanted: Any = task.wanted_by
    if wanted is None:
        return ""
    if type(wanted) is ClientRecord:
        return wanted.client_id
    return str(next(iter(wanted)).client_id)
