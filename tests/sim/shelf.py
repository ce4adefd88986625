"""The table of kept results in the simulator: written and read late, or not for a while; it outlives schedulers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from futurebroker.scheduler.shelving import Drop, Seek, Shelve, Sought, Written
from tests.sim.world import World

#: seconds that a write or a look takes, at most, and until a look is tried again that failed
TAKES = 0.05
AGAIN = 0.2


class SimShelf:
    """See the top of this file.

    Args:
        fails: whether the database can't be used now.
    """

    def __init__(self, world: World, fails: Callable[[], bool]) -> None:
        self.world = world
        self._random = Random(f"shelf {world.seed}")
        #: what is written: until when, and the row
        self.rows: dict[str, tuple[float, bytes]] = {}
        self.written = self.found = 0
        self._fails = fails
        self._life = 0
        self._say: Callable[[list[Any]], None] = lambda messages: None
        self._free_at = 0.0

    def begin(self, say: Callable[[list[Any]], None]) -> None:
        """Another scheduler: what the one before was to hear is lost, what it had written is not, or is perhaps."""
        self._life += 1
        self._say = say

    def tell(self, message: Any) -> None:
        """Do it, after all that came before."""
        self._free_at = max(self._free_at, self.world.now) + self._random.uniform(0, TAKES)
        self.world.after(self._free_at - self.world.now, partial(self._do, self._life, message))

    def _do(self, life: int, message: Any) -> None:
        if life != self._life and self._random.random() < 0.5:
            return  # it died before this was done
        if type(message) is Shelve:
            keys = [key for key, _, _ in message.rows]
            failed = self._fails()
            if not failed:
                self.rows |= {key: (until, row) for key, until, row in message.rows}
                self.written += len(keys)
            self._answer(life, Written(keys, "it can't be written" if failed else ""))
        elif type(message) is Drop:
            for key in message.keys:
                self.rows.pop(key, None)
        elif type(message) is Seek and self._fails():
            self.world.after(AGAIN, partial(self._do, life, message))
        elif type(message) is Seek:
            there = [self.rows[key] for key in message.keys if key in self.rows]
            rows = [row for until, row in there if until > self.world.now]
            self.found += len(rows)
            self._answer(life, Sought(message.number, rows))

    def _answer(self, life: int, message: Any) -> None:
        if life == self._life:
            self._say([message])
