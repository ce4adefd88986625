"""Virtual time, one source of chance, and the trace: everything in a run follows from its seed."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random


class World:
    """The heap of what is to happen, in order of time and then of planning."""

    def __init__(self, seed: int, show: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = 0.0
        self.happened = 0
        self._planned = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._show = show
        self._digest = hashlib.blake2b(digest_size=16)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Plan ``call``."""
        self._planned += 1
        heapq.heappush(self._heap, (self.now + seconds, self._planned, call))

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Plan ``call`` for ``time``, or for now when that has passed."""
        self.after(max(0.0, time - self.now), call)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random.random() < probability

    def trace(self, line: str) -> None:
        """One line of the run's story."""
        text = f"{self.now:10.4f} {line}"
        self._digest.update(text.encode())
        if self._show is not None:
            self._show(text)

    @property
    def digest(self) -> str:
        """Names the whole run: equal runs have equal digests."""
        return self._digest.hexdigest()

    def run(self, until: Callable[[], bool], deadline: Callable[[], float]) -> bool:
        """Let things happen until ``until``; False when time went beyond ``deadline`` before."""
        while self._heap:
            if until():
                return True
            time, _, call = heapq.heappop(self._heap)
            self.now = max(self.now, time)
            if self.now > deadline():
                return False
            self.happened += 1
            call()
        return until()
