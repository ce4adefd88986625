"""What the scheduler machine does at a later time: the machine names the moments, whoever drives it brings the clock.

Within one event `run_due` comes after the event itself, so that what an event calls off doesn't happen any more.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf

#: cancelled timers that may stand in the heap before it is made anew
DEAD_MAX = 1024


class Timer:
    """Something that is to happen; `Timers.cancel` calls it off."""

    __slots__ = ("act", "due", "number")

    def __init__(self, due: float, number: int, act: Callable[[], None] | None) -> None:
        self.due = due
        self.number = number  #: timers of one moment run in the order they were made
        self.act = act  #: None once it was cancelled or has run

    def __lt__(self, other: Timer) -> bool:
        return (self.due, self.number) < (other.due, other.number)


class Timers:
    """All that is to happen, soonest first; times are those of `SchedulerState.now`."""

    __slots__ = ("_dead", "_heap", "_number", "due")

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._number = 0
        self._dead = 0
        #: when `run_due` has to be called, at the latest
        self.due = inf

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def at(self, due: float, act: Callable[[], None]) -> Timer:
        """Have ``act()`` called by the first event at ``due`` or later."""
        self._number += 1
        timer = Timer(due, self._number, act)
        heappush(self._heap, timer)
        self.due = self._heap[0].due
        return timer

    def cancel(self, timer: Timer) -> None:
        """It shall not happen; a timer that has run or was cancelled may be given again."""
        if timer.act is None:
            return
        timer.act = None
        self._dead += 1
        if self._dead > DEAD_MAX and self._dead * 2 > len(self._heap):
            self._heap = [other for other in self._heap if other.act is not None]
            heapify(self._heap)
            self._dead = 0
        self._skip_dead()

    def run_due(self, now: float) -> None:
        """Do all that is due at ``now``, in order; what that adds for the same moment waits for the next call."""
        due = []
        while self._heap and self._heap[0].due <= now:
            due.append(heappop(self._heap))
        for timer in due:
            act, timer.act = timer.act, None
            if act is None:
                self._dead -= 1
            else:
                act()
        self._skip_dead()

    def _skip_dead(self) -> None:
        heap = self._heap
        while heap and heap[0].act is None:
            heappop(heap)
            self._dead -= 1
        self.due = heap[0].due if heap else inf
