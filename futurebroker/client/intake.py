"""How much of a client's work is unfinished, and waiting until the scheduler takes more."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from futurebroker.client.waiters import Countdown
from futurebroker.exceptions import IntakeError

#: calls and bytes of arguments that are taken on while the broker asks to stop sending
BLOCKED_TASKS = 10_000
BLOCKED_BYTES = 16 * 1024 * 1024


class Intake:
    """Counts calls when they are made and when they are settled; the difference is bounded by the scheduler.

    A call takes a number from `counter`, which threads may do at once; all else is written by the I/O thread, or with
    the connection's lock held.

    Args:
        patience: seconds that a call may wait for room.
    """

    def __init__(self, lock: AbstractContextManager[Any], patience: float) -> None:
        self.counter = itertools.count(1)
        #: of the calls counted, how many are settled
        self.settled = 0
        #: bytes of arguments that were sent and belong to unsettled tasks
        self.bytes = 0
        self.max_tasks = sys.maxsize
        self.max_bytes = sys.maxsize
        #: the two as the scheduler gave them, while the broker asks to stop sending
        self._limits: tuple[int, int] | None = None
        self._lock = lock
        self._patience = patience
        self._waiting: list[Countdown] = []

    def allow(self, tasks: int, bytes: int) -> None:
        """The scheduler says how much it takes."""
        if self._limits is None:
            self.max_tasks, self.max_bytes = tasks, bytes
        else:
            self._limits = tasks, bytes

    def has_room(self, number: int) -> bool:
        """Whether the scheduler takes the call counted as ``number``."""
        return number - self.settled <= self.max_tasks and self.bytes <= self.max_bytes

    def has_open(self) -> bool:
        """Whether a call was made that isn't settled."""
        number = next(self.counter)
        with self._lock:
            self.settled += 1  # this one won't be sent
            return number > self.settled

    def take(self, count: int) -> list[int] | None:
        """Numbers for so many calls, all at once; None if the scheduler doesn't take them all now."""
        numbers = list(itertools.islice(self.counter, count))
        if self.has_room(numbers[-1]):
            return numbers
        with self._lock:
            self.settled += count  # these won't be sent
        # Who asked meanwhile was counted behind them.
        self.tell(ended=False)
        return None

    def wait(self, number: int, flush: Callable[[], None], check: Callable[[], None]) -> None:
        """Block until there is room for the call counted as ``number``.

        Raises:
            IntakeError: there was none in time.
        """
        while not self.has_room(number):
            waiter = Countdown(1)
            with self._lock:
                if self.has_room(number):
                    return
                self._waiting.append(waiter)
            flush()
            if not waiter.wait(self._patience):
                self._give_up(number, waiter)
            check()

    def _give_up(self, number: int, waiter: Countdown) -> None:
        with self._lock:
            tasks, size = number - 1 - self.settled, self.bytes
            self.settled += 1  # this one won't be sent
            if waiter in self._waiting:
                self._waiting.remove(waiter)
        if self._limits is not None:
            raise IntakeError(
                f"the broker has no room and asks to stop sending (look for its memory or disk alarm): {tasks:,} tasks "
                f"with {size:,} bytes of arguments are unfinished, and it made no room within {self._patience:g} s"
            )
        raise IntakeError(
            f"the scheduler takes no more from this client: {tasks:,} tasks (at most {self.max_tasks:,}) with "
            f"{size:,} bytes of arguments (at most {self.max_bytes:,}) are unfinished, and it made no room within "
            f"{self._patience:g} s; wait for results, or raise intake_tasks or intake_bytes of the scheduler"
        )

    def block(self, is_blocked: bool) -> None:
        """The broker takes nothing, or does again; meanwhile little is taken on, for all of it waits in memory."""
        with self._lock:
            if is_blocked and self._limits is None:
                number = next(self.counter)
                self.settled += 1  # that one won't be sent
                self._limits = self.max_tasks, self.max_bytes
                self.max_tasks = min(self.max_tasks, number - self.settled + BLOCKED_TASKS)
                self.max_bytes = min(self.max_bytes, self.bytes + BLOCKED_BYTES)
            elif not is_blocked and self._limits is not None:
                self.max_tasks, self.max_bytes = self._limits
                self._limits = None
        self.tell(ended=False)

    def tell(self, ended: bool) -> None:
        """Let those who wait look again, if there may be room or nothing can be sent any more."""
        if self._waiting and (ended or self.bytes <= self.max_bytes):
            with self._lock:
                waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.end()
