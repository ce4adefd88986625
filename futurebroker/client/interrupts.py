"""Keeps signals out of the middle of what must not stop there: the main thread's own sending and reading.

Python runs handlers of signals between any two steps of the main thread, and they raise: KeyboardInterrupt, or whatever
a program makes of a timer. In the middle of a send that would take calls from the outbox that never leave, or break the
session's numbers; in the middle of reading it would lose what is acknowledged already. And the program may well go on
after it: in a notebook it does. So handlers wait for the end, some fifty microseconds, or milliseconds where the thread
waits for what it reads.
"""

from __future__ import annotations

import signal as signals
import threading

# what the module `signal` wraps, without its names for numbers, which take most of the time
from _signal import getsignal, signal  # type: ignore[import-not-found]
from _thread import interrupt_main
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_MAIN = threading.main_thread().ident
_NUMBERS = tuple(map(int, signals.valid_signals()))

#: the handlers of `_NUMBERS` when last seen, and those of them that are functions, with their numbers
_seen: list[Any] = []
_functions: list[tuple[int, Callable[[int, FrameType | None], Any]]] = []


def _handlers() -> list[tuple[int, Callable[[int, FrameType | None], Any]]]:
    """The handlers that are functions now; others interrupt no Python code. Only for the main thread."""
    global _seen, _functions
    now = list(map(getsignal, _NUMBERS))
    if now != _seen:
        _functions = [(number, handler) for number, handler in zip(_NUMBERS, now, strict=True) if callable(handler)]
        _seen = now
    return _functions


class Uninterrupted:
    """Within ``with``, signals are only noted; their handlers are called when the block ends.

    For one use. In other threads than the main one it has no effect, as signals have none there.
    """

    __slots__ = ("_handlers", "_noted")

    def __init__(self) -> None:
        self._handlers: list[tuple[int, Callable[[int, FrameType | None], Any]]] = []
        self._noted: list[int] = []

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.append(number)

    def __enter__(self) -> None:
        # Only the main thread is interrupted, and only it may change handlers.
        if threading.get_ident() == _MAIN:
            self._handlers = _handlers()
            for number, _ in self._handlers:
                signal(number, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers:
            signal(number, handler)
        if self._noted:
            # Has Python call the handlers as if the signals came now; in one step, because the first may raise.
            list(map(interrupt_main, dict.fromkeys(self._noted)))  # type: ignore[arg-type]
