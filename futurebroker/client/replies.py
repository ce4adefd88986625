"""Questions to the scheduler that are not answered yet, and what is made of answers."""

from __future__ import annotations

import getpass
import itertools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from futurebroker.client.waiters import Countdown, pause
from futurebroker.protocol.messages import Message
from futurebroker.protocol.serialize import load_failure, loads_writable


class Reply:
    """What a question came to, once it is answered."""

    __slots__ = ("error", "value", "waiter")

    def __init__(self) -> None:
        self.waiter = Countdown(1)
        self.value: Any = None
        self.error: Exception | None = None

    def settle(self, value: Any, error: Exception | None) -> None:
        """The answer is there."""
        self.value = value
        self.error = error
        self.waiter.end()


class Replies:
    """Numbers questions and brings answers back to who asked.

    Args:
        wait: blocks a thread; see `pause`.
    """

    def __init__(self, wait: Callable[[Countdown, float | None], bool] = Countdown.wait) -> None:
        self._wait = wait
        self._numbers = itertools.count(1)
        self._open: dict[int, Reply] = {}

    def number(self) -> int:
        """A number for a question or a transfer."""
        return next(self._numbers)

    async def ask(
        self, number: int, message: Message, send: Callable[[Message], None], blocking: bool, timeout: float | None
    ) -> Any:
        """Send ``message`` and wait for the answer with its number; TimeoutError when it is late."""
        reply = self._open[number] = Reply()
        try:
            send(message)
            if not await pause(reply.waiter, blocking, timeout, self._wait):
                raise TimeoutError(f"the scheduler did not answer within {timeout:g} s")
        finally:
            self._open.pop(number, None)
        if reply.error is not None:
            raise reply.error
        return reply.value

    def answer(self, number: int, value: Any, error: Exception | None) -> None:
        """An answer came; it is dropped if nobody waits for it any more."""
        reply = self._open.get(number)
        if reply is not None:
            reply.settle(value, error)

    def fail(self, error: Exception) -> None:
        """No answers will come."""
        for reply in list(self._open.values()):
            reply.settle(None, error)


def introduce() -> dict[str, Any]:
    """What the scheduler and its dashboard are told about this program."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        user = str(os.getuid())
    return {"user": user, "host": socket.gethostname(), "pid": os.getpid(), "program": os.path.basename(sys.argv[0])}


def opened(answers: dict[str, Any], on_error: str) -> dict[str, Any]:
    """What a function returned or raised on each worker."""
    results: dict[str, Any] = {}
    for worker, (value, failure) in answers.items():
        if failure is None:
            results[worker] = loads_writable(value)
        elif on_error == "raise":
            raise load_failure(failure)
        elif on_error == "return":
            results[worker] = load_failure(failure)
    return results
