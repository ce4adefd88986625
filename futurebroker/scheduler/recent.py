"""What has just ended, for who looks at it: kept while a dashboard asks again and again, or a client has it recorded.

A run costs one comparison while nobody does. While somebody does, its end is appended to a ring; who asks too seldom
for the ring to hold all of it is told how much was missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from futurebroker.types import Key, WorkerId

#: seconds for which one question keeps the ring going
LEASE = 60.0
#: ends remembered, and while they are recorded
KEPT = 20_000
RECORDED = 100_000
#: ends in one answer
MOST = 5_000


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

    def note(
        self, kind: str, worker: str, worker_id: WorkerId, now: float, duration: int, key: Key, nbytes: int, result: str
    ) -> None:
        """A run ended at ``now`` after ``duration`` microseconds; to be called while `active`."""
        if now > self._until and not self.recorded:
            self.active = False
            self._ends.clear()
            return
        self.count += 1
        seconds = duration * 1e-6
        self._ends.append(End(self.count, kind, worker, now, seconds, nbytes < 0, key, worker_id, nbytes, result))

    def record(self, on: bool) -> bool:
        """Keep more, and until this is called again; whether that was so before."""
        before, self.recorded = self.recorded, on
        if on != before:
            self._ends = deque(self._ends, maxlen=RECORDED if on else KEPT)
        self.active = self.active or on
        return before

    def __iter__(self) -> Iterator[End]:
        """What is kept, oldest first."""
        return iter(self._ends)

    def since(self, number: int, now: float) -> dict[str, Any]:
        """What ended after the end with this number, column by column; keeps the ring going."""
        self.active = True
        self._until = now + LEASE
        ends = [end for end in self._ends if end.number > number][:MOST]
        first = ends[0].number if ends else self.count + 1
        columns = zip(*ends, strict=True) if ends else ((),) * 7
        numbers, kinds, workers, at, durations, failed, keys, *_ = columns
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
        }
