"""What has just ended, for who looks at it: kept while a dashboard asks again and again, or a client has it recorded.

A run costs one comparison while nobody does. While somebody does, its end is appended to a ring; who asks too seldom
for the ring to hold all of it is told how much was missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

from futurebroker.protocol.messages import Erred, Finished
from futurebroker.scheduler.records import TaskRecord, WorkerRecord
from futurebroker.types import Key, WorkerId

#: seconds for which one question keeps the ring going
LEASE = 60.0
#: ends remembered, and while they are recorded
KEPT = 20_000
RECORDED = 100_000
#: ends in one answer
MOST = 5_000
#: seconds by which a worker's clock may differ from ours
SKEW = 30.0


class End(NamedTuple):
    """A run that ended; columns of what dashboards get come first."""

    number: int
    kind: str  #: of the task
    worker: str
    at: float  #: monotonic seconds
    duration: float  #: seconds
    failed: bool
    key: Key
    worker_id: WorkerId
    nbytes: int  #: of its result; -1 if it failed
    type: str  #: of its result, or of its error
    executor: int  #: the worker's number of it


class Recent:
    """The ring, and until when it is kept."""

    __slots__ = ("_ends", "_until", "active", "count", "recorded")

    def __init__(self) -> None:
        self.active = False
        #: whether a client has it kept until it says otherwise
        self.recorded = False
        #: ends noted so far; each has the number it made this
        self.count = 0
        self._until = 0.0
        self._ends: deque[End] = deque(maxlen=KEPT)

    def note(self, task: TaskRecord, worker: WorkerRecord, report: Finished | Erred, now: float, offset: float) -> None:
        """A worker reports at ``now`` that a run has ended; to be called while `active`.

        Args:
            offset: what makes seconds since 1970 of monotonic ones.
        """
        if now > self._until and not self.recorded:
            self.active = False
            self._ends.clear()
            return
        self.count += 1
        seconds = report.duration * 1e-6
        # Reports come many at a time; a worker's clock tells better, unless it is wrong.
        at = report.started * 1e-6 + seconds - offset
        at = at if report.started and abs(now - at) < SKEW else now
        nbytes, result = (-1, report.failure.type) if isinstance(report, Erred) else (report.nbytes, report.type)
        self._ends.append(
            End(
                self.count, task.kind.name, worker.name, at, seconds, nbytes < 0, task.key, worker.worker_id, nbytes,
                result, report.executor,
            )
        )  # fmt: skip

    def record(self, on: bool) -> bool:
        """Keep more, and until this is called again; whether that was so before."""
        before, self.recorded = self.recorded, on
        if on != before:
            self._ends = deque(self._ends, maxlen=RECORDED if on else KEPT)
        self.active = self.active or on
        return before

    def keep(self, now: float) -> None:
        """Somebody looks: keep what ends, for a while."""
        self.active = True
        self._until = now + LEASE

    def last_of(self, keys: Container[Key]) -> dict[Key, End]:
        """By key, how its last run ended, as far as that is kept."""
        return {end.key: end for end in self._ends if end.key in keys}

    def __iter__(self) -> Iterator[End]:
        """What is kept, oldest first."""
        return iter(self._ends)

    def since(self, number: int, now: float) -> dict[str, Any]:
        """What ended after the end with this number, column by column; keeps the ring going."""
        self.keep(now)
        ends = [end for end in self._ends if end.number > number][:MOST]
        first = ends[0].number if ends else self.count + 1
        columns = zip(*ends, strict=True) if ends else ((),) * len(End._fields)
        numbers, kinds, workers, at, durations, failed, keys, *_, executors = columns
        return {
            "now": now,
            "last": numbers[-1] if numbers else self.count,
            "missed": max(0, first - number - 1) if number else 0,
            "type": kinds,
            "worker": workers,
            "end": at,
            "duration": durations,
            "failed": failed,
            "key": keys,
            "executor": executors,
        }
