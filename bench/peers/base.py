"""What an adapter offers."""

from __future__ import annotations

from typing import Protocol


class Peer(Protocol):
    """A system under test. Sums are returned instead of lists, so that a run's answer can be checked cheaply."""

    def start(self) -> None:
        """Come up as far as the constructor goes; the first result is awaited by the caller."""

    def stop(self) -> None: ...

    def submit_gather(self, n: int) -> int:
        """Submit ``inc(i)`` for `n` numbers one by one, then fetch all results: their sum."""
        ...

    def map_gather(self, n: int, chunksize: int) -> int:
        """Map ``inc`` over `n` numbers by the peer's own map, `chunksize` calls a task: the sum of the results."""
        ...

    def round_trip(self, n: int) -> list[float]:
        """Submit one call and wait for its result, `n` times: the seconds of each."""
        ...

    def chain(self, n: int) -> int:
        """``inc`` on the result of the one before, `n` times from 0: the last result."""
        ...

    def tree(self, leaves: int) -> int:
        """``inc(i)`` for each leaf, added in pairs up to the root: the root. `leaves` is a power of two."""
        ...

    def array(self, nbytes: int) -> float:
        """Make an array in one task, sum it in a second one: the sum."""
        ...
