"""What has just ended, for who looks at it: kept only while a dashboard asks again and again.

A run costs one comparison while nobody looks. While somebody does, its end is appended to a ring; who asks too seldom
for the ring to hold all of it is told how much was missed.
"""

from __future__ import annotations

from collections import deque
from typing import Any

#: seconds for which one question keeps the ring going
LEASE = 60.0
#: ends remembered
KEPT = 20_000
#: ends in one answer
MOST = 5_000


class Recent:
    """The ring, and until when it is kept."""

    __slots__ = ("_ends", "_until", "active", "count")

    def __init__(self) -> None:
        self.active = False
        #: ends noted so far; each has the number it made this
        self.count = 0
        self._until = 0.0
        self._ends: deque[tuple[int, str, str, float, float, bool, str]] = deque(maxlen=KEPT)

    def note(self, kind: str, worker: str, now: float, duration: float, failed: bool, key: str) -> None:
        """A run ended at ``now`` after ``duration`` seconds; to be called while `active`."""
        if now > self._until:
            self.active = False
            self._ends.clear()
            return
        self.count += 1
        self._ends.append((self.count, kind, worker, now, duration, failed, key))

    def since(self, number: int, now: float) -> dict[str, Any]:
        """What ended after the end with this number, column by column; keeps the ring going."""
        self.active = True
        self._until = now + LEASE
        ends = [end for end in self._ends if end[0] > number][:MOST]
        first = ends[0][0] if ends else self.count + 1
        numbers, kinds, workers, at, durations, failed, keys = zip(*ends, strict=True) if ends else ((),) * 7
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
