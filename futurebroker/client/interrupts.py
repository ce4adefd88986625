"""Keeps Ctrl-C out of the middle of what must not stop there: the main thread's own send.

Python raises KeyboardInterrupt between any two steps of the main thread. In the middle of a send that would take calls
from the outbox that never leave, or break the session's numbers, and the program may well go on after it: in a notebook
it does. So the handler of SIGINT waits for the end of the send, some fifty microseconds.
"""

from __future__ import annotations

import threading

# what the module `signal` wraps, without its names for numbers, which take most of the time
from _signal import SIGINT, getsignal, signal  # type: ignore[import-not-found]
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_MAIN = threading.main_thread().ident


class Uninterrupted:
    """Within ``with``, SIGINT is only noted; its handler is called when the block ends.

    For one use. In other threads than the main one it has no effect, as SIGINT has none there.
    """

    __slots__ = ("_handler", "_noted")

    def __init__(self) -> None:
        self._handler: Callable[[int, FrameType | None], Any] | int | None = None
        self._noted = False

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._noted = True

    def __enter__(self) -> None:
        # Only the main thread is interrupted, and only it may change the handler.
        if threading.get_ident() == _MAIN:
            handler = getsignal(SIGINT)
            # One that isn't a function is the system's own or none of Python's: it interrupts no Python code.
            if callable(handler) and handler != self._note:
                self._handler = handler
                signal(SIGINT, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handler, self._handler = self._handler, None
        if handler is None or not callable(handler):
            return
        signal(SIGINT, handler)
        if self._noted:
            self._noted = False
            handler(SIGINT, None)
