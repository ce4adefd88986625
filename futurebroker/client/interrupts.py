"""Keeps signals out of the middle of what must not stop there: the main thread's own sending and reading.

Python runs handlers of signals between any two steps of the main thread, and they raise: KeyboardInterrupt, or whatever
a program makes of a timer. In the middle of a send that would take calls from the outbox that never leave, or break the
session's numbers; in the middle of reading it would lose what is acknowledged already. And the program may well go on
after it: in a notebook it does. So handlers wait for the end, some fifty microseconds, or milliseconds where the thread
waits for what it reads.
"""

from __future__ import annotations

import os
import signal as signals
import sys
import threading

# what the module `signal` wraps, without its names for numbers, which take most of the time
from _signal import getsignal, signal  # type: ignore[import-not-found]
from asyncio import unix_events
from collections.abc import Callable
from types import FrameType, MethodType, TracebackType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

_NUMBERS = tuple(map(int, signals.valid_signals()))
#: asyncio's handler of the signals that a loop is told of by other means; it interrupts nothing
_ASYNCIOS = getattr(unix_events, "_sighandler_noop", None)

#: the thread that handlers run in
_main = threading.main_thread().ident
#: the handlers of `_NUMBERS` when last seen, and those of them that may interrupt, with their numbers
_seen: list[Any] = []
_functions: list[tuple[int, Handler]] = []
#: blocks that are under way, the outermost first
_blocks: list[Uninterrupted] = []


def _handlers() -> list[tuple[int, Handler]]:
    """The handlers that are functions now; others interrupt no Python code. Only for the main thread."""
    global _seen, _functions
    now = list(map(getsignal, _NUMBERS))
    if now != _seen:
        found = [(number, _own(number, handler)) for number, handler in zip(_NUMBERS, now, strict=True)]
        _functions = [(number, handler) for number, handler in found if callable(handler) and handler is not _ASYNCIOS]
        _seen = now
    return _functions


def _own(number: int, handler: Any) -> Any:
    """The program's own handler: one of ours is left where a handler that raised kept a block from putting it back."""
    while type(handler) is MethodType and type(handler.__self__) is Uninterrupted and not handler.__self__.is_underway:
        handler = handler.__self__.handler(number)
    return handler


def _forked() -> None:
    """A child goes on with the thread that forked, whatever the main thread was in the middle of."""
    global _main
    _main = threading.get_ident()
    while _blocks:
        _blocks.pop().put_back()


os.register_at_fork(after_in_child=_forked)


class Uninterrupted:
    """Within ``with``, signals are only noted; their handlers are called when the block ends.

    For one use. In other threads than the main one it has no effect, as signals have none there.
    """

    __slots__ = ("_handlers", "_noted", "is_underway")

    def __init__(self) -> None:
        self._handlers: list[tuple[int, Handler]] = []
        self._noted: list[int] = []
        self.is_underway = False

    def handler(self, number: int) -> Handler | None:
        """What the program itself has handle a signal."""
        return dict(self._handlers).get(number)

    def put_back(self) -> None:
        """Have the program's own handlers called again. One that is due is now, and may raise: then ours pass on."""
        self.is_underway = False
        ours = self._note
        for number, handler in self._handlers:
            if getsignal(number) == ours:  # or the program has set another meanwhile
                signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.is_underway:
            self._noted.append(number)
        elif (handler := self.handler(number)) is not None:
            handler(number, frame)

    def _call(self, noted: list[int]) -> None:
        """Call the handlers of what was noted, each though another raises."""
        number = noted.pop(0)
        try:
            self._note(number, sys._getframe(2))
        finally:
            if noted:
                self._call(noted)

    def __enter__(self) -> None:
        # Only the main thread is interrupted, and only it may change handlers.
        if threading.get_ident() != _main:
            return
        self._handlers = _handlers()
        self.is_underway = True
        ours = self._note
        try:
            _blocks.append(self)
            for number, _ in self._handlers:
                signal(number, ours)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_underway:
            return
        _blocks.remove(self)
        try:
            self.put_back()
        finally:
            if self._noted:
                self._call(list(dict.fromkeys(self._noted)))
