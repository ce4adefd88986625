"""When tasks were submitted, known without a word in any task's record.

A task's order contains the running number it was submitted with. Noting the time of some numbers is enough to say of
any other when it came, to within a second or so, at a cost of one comparison a message.
"""

from __future__ import annotations

from bisect import bisect_left

#: seconds between two notes
EVERY = 1.0
#: notes kept; beyond them every other one of the older half is dropped
MOST = 4096


class Moments:
    """Times at which running numbers were reached."""

    __slots__ = ("_numbers", "_times")

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._times: list[float] = []

    def note(self, number: int, now: float) -> None:
        """``number`` was not yet given at ``now``; numbers and times never fall."""
        if self._times and now - self._times[-1] < EVERY:
            return
        self._numbers.append(number)
        self._times.append(now)
        if len(self._times) > MOST:
            half = MOST // 2
            self._numbers[:half] = self._numbers[:half:2]
            self._times[:half] = self._times[:half:2]

    def when(self, number: int) -> float | None:
        """When ``number`` was given, rather too early than too late; None when nothing was noted before it."""
        place = bisect_left(self._numbers, number) - 1
        return self._times[place] if place >= 0 else None
