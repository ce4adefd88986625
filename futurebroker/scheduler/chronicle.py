"""Notes what people will look up later: tasks that ended, and what happened to tasks and workers (sans-IO).

What must survive is the journal's, see `recording`; this may be left out under overload. Without a history
`SchedulerState.chronicle` is None and nothing is noted. Rows collect until somebody takes them; beyond `ROWS_MOST` they
are only counted. The totals of each kind are right in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from futurebroker.protocol.messages import Erred, Failure, Finished
from futurebroker.scheduler.records import ORDER_MASK, ClientRecord, TaskRecord, WorkerRecord
from futurebroker.types import Key

#: rows and events that wait to be taken, at the most
ROWS_MOST = 100_000
EVENTS_MOST = 10_000
#: inputs that are named of a task
INPUTS_MOST = 50
#: characters of an error's message and of a traceback
MESSAGE_MOST = 1_000
TRACEBACK_MOST = 20_000

FINISHED, FAILED, CANCELLED = "finished", "failed", "cancelled"

#: a row of `Batch.rows`, in the order of the columns of `persistence.history_tables.tasks`
Row = tuple[
    Key,  # key
    str,  # type: its kind's name
    str,  # outcome
    str,  # worker's name
    int,  # executor's number
    str,  # client that wanted it
    int,  # attempts
    float | None,  # submitted
    float | None,  # started, by the worker's clock
    float,  # ended
    float | None,  # seconds in user code
    int,  # bytes of the result
    str,  # type of the result
    str,  # error's type
    str,  # error's message
    str,  # traceback
    tuple[Key, ...],  # inputs
]


class Totals:
    """What the tasks of one kind came to since the last `Chronicle.take`."""

    __slots__ = ("cancelled", "failed", "finished", "micros", "nbytes")

    def __init__(self) -> None:
        self.finished = 0
        self.failed = 0
        self.cancelled = 0
        self.micros = 0
        self.nbytes = 0


class Batch(NamedTuple):
    """What was noted since the last `Chronicle.take`."""

    rows: list[Row]
    events: list[tuple[float, str, str, str, str, str]]  #: (time, kind, worker, key, client, text)
    totals: dict[str, tuple[int, int, int, int, int]]  #: kind -> the fields of `Totals`, in the order of this file
    dropped: int  #: rows and events left out


class Chronicle:
    """See the top of this file.

    Args:
        when: the time, in seconds since 1970, at which a running number was submitted; None when nobody knows.
    """

    __slots__ = ("_dropped", "_erred", "_events", "_rows", "_totals", "_when", "offset")

    def __init__(self, when: Callable[[int], float | None]) -> None:
        self.offset = 0.0  #: seconds from the machine's time to that since 1970; kept right by whoever drives it
        self._when = when
        self._rows: list[Row] = []
        self._events: list[tuple[float, str, str, str, str, str]] = []
        self._totals: dict[str, Totals] = {}
        self._dropped = 0
        #: the report that makes a task fail, while that goes on
        self._erred: Erred | None = None

    # -- tasks ------------------------------------------------------------------------------------------------------

    def finished(self, now: float, task: TaskRecord, worker: WorkerRecord, report: Finished) -> None:
        """A task's result is there; its record still tells of the run."""
        kind = task.kind.name
        totals = self._totals.get(kind)
        if totals is None:
            totals = self._totals[kind] = Totals()
        totals.finished += 1
        totals.micros += report.duration
        totals.nbytes += report.nbytes
        rows = self._rows
        if len(rows) >= ROWS_MOST:
            self._dropped += 1
            return
        when = self._when(task.order & ORDER_MASK)
        inputs = task.dependencies
        rows.append(
            (
                task.key,
                kind,
                FINISHED,
                worker.name,
                report.executor,
                _client(task),
                1 + task.retried + task.deaths,
                None if when is None else when + self.offset,
                report.started * 1e-6 if report.started else None,
                now + self.offset,
                report.duration * 1e-6,
                report.nbytes,
                report.type,
                "",
                "",
                "",
                tuple([one.key for one in inputs[:INPUTS_MOST]]) if inputs else (),
            )
        )

    def erring(self, report: Erred | None) -> None:
        """A worker's report is about to make its task fail; None: that is over."""
        self._erred = report

    def failed(self, now: float, task: TaskRecord, failure: Failure) -> None:
        """A task failed for good, by itself or with another."""
        report = self._erred
        if report is not None and report.key != task.key:
            report = None
        self._ended(now, task, FAILED, report, failure)

    def cancelled(self, now: float, task: TaskRecord) -> None:
        """Nobody needs a task any more that has not ended."""
        self._ended(now, task, CANCELLED, None, None)

    def _ended(self, now: float, task: TaskRecord, outcome: str, report: Erred | None, failure: Failure | None) -> None:
        kind = task.kind.name
        totals = self._totals.setdefault(kind, Totals())
        if failure is not None:
            totals.failed += 1
        else:
            totals.cancelled += 1
        if report is not None:
            totals.micros += report.duration
        if len(self._rows) >= ROWS_MOST:
            self._dropped += 1
            return
        when = self._when(task.order & ORDER_MASK)
        ran = report is not None and report.started
        self._rows.append(
            (
                task.key,
                kind,
                outcome,
                task.worker.name if task.worker is not None else failure.worker if failure is not None else "",
                report.executor if report is not None else 0,
                _client(task),
                (1 if task.attempt else 0) + task.retried + task.deaths,
                None if when is None else when + self.offset,
                report.started * 1e-6 if report is not None and ran else None,
                now + self.offset,
                report.duration * 1e-6 if report is not None and ran else None,
                0,
                "",
                failure.type if failure is not None else "",
                failure.message[:MESSAGE_MOST] if failure is not None else "",
                # Of those that failed with another, that one's row has it.
                failure.traceback[-TRACEBACK_MOST:] if failure is not None and failure.key == task.key else "",
                tuple([one.key for one in task.dependencies[:INPUTS_MOST]]),
            )
        )

    # -- events -----------------------------------------------------------------------------------------------------

    def note(self, now: float, kind: str, *, worker: str = "", key: Key = "", client: str = "", text: str = "") -> None:
        """Something happened that is worth a line: to a worker, a client, or one run of a task."""
        if len(self._events) >= EVENTS_MOST:
            self._dropped += 1
            return
        self._events.append((now + self.offset, kind, worker, key, client, text[:MESSAGE_MOST]))

    # -- taking -----------------------------------------------------------------------------------------------------

    def take(self) -> Batch | None:
        """All that was noted since the last call; None when nothing was."""
        if not (self._rows or self._events or self._totals):
            return None
        totals = {
            name: (one.finished, one.failed, one.cancelled, one.micros, one.nbytes)
            for name, one in self._totals.items()
        }
        batch = Batch(self._rows, self._events, totals, self._dropped)
        self._rows, self._events, self._totals, self._dropped = [], [], {}, 0
        return batch


def _client(task: TaskRecord) -> str:
    wanted: Any = task.wanted_by
    if wanted is None:
        return ""
    if type(wanted) is ClientRecord:
        return wanted.client_id
    return str(next(iter(wanted)).client_id)
