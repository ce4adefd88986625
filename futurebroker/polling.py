"""Event loops with a short way from the socket to who reads it, and loops whose turn other threads may have.

A message wakes a process that has slept, whose caches are cold: then it counts how many different steps lie between
the poller and the callback. asyncio makes a dozen (a key, a handle, a context, a queue of what is ready); a `QuickLoop`
calls what `add_reader` was given from within the poller. It is an asyncio loop in all else. Where there is no epoll,
the loops are asyncio's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from functools import partial
from selectors import BaseSelector, SelectorKey
from typing import Any, TypeVarTuple

Arguments = TypeVarTuple("Arguments")

_IN, _OUT = 1, 4  #: epoll's events; those of a selector are 1 and 2
#: events that are taken at a time
_AT_A_TIME = 64
#: `TurnPoller.until` of a loop that runs
_AWAKE = float("-inf")


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop for one thread."""
    return QuickLoop() if hasattr(select, "epoll") else asyncio.new_event_loop()


def new_turn_loop() -> TurnLoop | None:
    """A loop whose turn other threads may have; None where there can't be one."""
    return TurnLoop() if hasattr(select, "epoll") else None


class Poller(BaseSelector):
    """A selector that calls readers itself, and tells asyncio only of what else is ready.

    Args:
        failed: told of exceptions that readers raise.
    """

    def __init__(self, failed: Callable[[Callable[[], object], BaseException], object]) -> None:
        self._epoll = select.epoll()
        self._wait: Callable[[float | None, int], list[tuple[int, int]]] = self._epoll.poll
        self._failed = failed
        self._keys: dict[int, SelectorKey] = {}
        self._known = _Known(self._keys)
        self._readers: dict[int, Callable[[], object]] = {}

    # -- for the loop ------------------------------------------------------------------------------------------------

    def reader(self, fd: int) -> Callable[[], object] | None:
        """What is called when ``fd`` has something to read."""
        return self._readers.get(fd)

    def set_reader(self, fd: int, call: Callable[[], object] | None) -> None:
        """Have ``call`` called when ``fd`` has something to read; None ends that."""
        was_known = fd in self._readers or fd in self._keys
        if call is None:
            self._readers.pop(fd, None)
        else:
            self._readers[fd] = call
        self._watch(fd, was_known)

    def _watch(self, fd: int, was_known: bool) -> None:
        key = self._keys.get(fd)
        mask = 0 if key is None else (key.events & 1) | (key.events & 2) << 1
        if fd in self._readers:
            mask |= _IN
        if not mask:
            with contextlib.suppress(OSError):  # who closed it before has ended that already
                self._epoll.unregister(fd)
        elif was_known:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    # -- a selector's methods ----------------------------------------------------------------------------------------

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        fd = _number(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        key = SelectorKey(fileobj, fd, events, data)
        was_known = fd in self._readers
        self._keys[fd] = key
        try:
            self._watch(fd, was_known)
        except BaseException:
            del self._keys[fd]
            raise
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        key = self._keys.pop(_number(fileobj))
        self._watch(key.fd, True)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        fd = _number(fileobj)
        key = self._keys[fd] = self._keys[fd]._replace(events=events, data=data)
        self._watch(fd, True)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        ready = []
        for fd, event in self._wait(timeout, _AT_A_TIME):
            call = self._readers.get(fd)
            if call is not None:
                if event != _OUT:
                    try:
                        call()
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:  # noqa: BLE001 - told, as asyncio does
                        self._failed(call, error)
                if event == _IN:
                    continue
            key = self._keys.get(fd)
            if key is not None:
                # as `selectors.EpollSelector` has it: an error is something to read and to write
                events = ((2 if event & ~_IN else 0) | (1 if event & ~_OUT else 0)) & key.events
                if events:
                    ready.append((key, events))
        return ready

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._known

    def get_key(self, fileobj: Any) -> SelectorKey:
        return self._keys[_number(fileobj)]

    def close(self) -> None:
        self._keys.clear()
        self._readers.clear()
        self._epoll.close()


class _Known(Mapping[Any, SelectorKey]):
    """Keys by number or by what has one: newer asyncio asks for both."""

    def __init__(self, keys: dict[int, SelectorKey]) -> None:
        self._keys = keys

    def __getitem__(self, fileobj: Any) -> SelectorKey:
        return self._keys[_number(fileobj)]

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _number(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


class QuickLoop(asyncio.SelectorEventLoop):
    """See the top of this file."""

    #: as asyncio has it, without a method of Python's around it: it is asked several times a message
    time = staticmethod(time.monotonic)

    def __init__(self, poller: type[Poller] = Poller) -> None:
        self.poller = poller(self._reader_failed)
        super().__init__(self.poller)

    def add_reader(self, fd: Any, callback: Callable[[*Arguments], Any], *args: *Arguments) -> None:
        """As in asyncio; the callback runs in the context of the loop itself."""
        self.poller.set_reader(_number(fd), partial(callback, *args))

    def remove_reader(self, fd: Any) -> bool:
        """As in asyncio."""
        number = _number(fd)
        if self.poller.reader(number) is None:
            return False
        self.poller.set_reader(number, None)
        return True

    def _reader_failed(self, call: Callable[[], object], error: BaseException) -> None:
        self.call_exception_handler({"message": f"Exception in reader {call!r}", "exception": error})


class TurnPoller(Poller):
    """Lets other threads have the loop's turn while it sleeps.

    The loop's thread holds `turn` except while it waits for events. Who takes it meanwhile may use what belongs to the
    loop as if it ran there: so a user's thread can send what it has by itself, and read what it waits for, without a
    change of threads.
    """

    def __init__(self, failed: Callable[[Callable[[], object], BaseException], object]) -> None:
        super().__init__(failed)
        self.turn = threading.Lock()
        #: when the loop will wake by itself; in the past while it runs
        self.until = _AWAKE
        self._wait = self._wait_apart

    def _wait_apart(self, timeout: float | None, at_most: int) -> list[tuple[int, int]]:
        if timeout is not None and timeout <= 0:
            return self._epoll.poll(timeout, at_most)
        self.until = float("inf") if timeout is None else time.monotonic() + timeout
        self.turn.release()
        try:
            return self._epoll.poll(timeout, at_most)
        finally:
            self.turn.acquire()
            self.until = _AWAKE

    # -- for who has the turn ----------------------------------------------------------------------------------------

    def mute(self, fd: int) -> Callable[[], object]:
        """Don't wake the loop for what can be read from ``fd``: who calls this calls its reader, returned, instead."""
        self._epoll.modify(fd, _OUT if fd in self._keys else 0)
        return self._readers[fd]

    def unmute(self, fd: int) -> None:
        """Wake the loop for it again, if it is still read."""
        if fd in self._readers:
            self._watch(fd, True)

    def call(self, reader: Callable[[], object]) -> None:
        """Call what reads; its errors are told as the loop tells them."""
        try:
            reader()
        except Exception as error:  # noqa: BLE001 - told, as the loop does
            self._failed(reader, error)


class TurnLoop(QuickLoop):
    """A loop that runs in a thread of its own, for others that take its turn; see `TurnPoller`."""

    poller: TurnPoller

    def __init__(self) -> None:
        super().__init__(TurnPoller)
        # In debug mode (python -X dev) it would refuse a thread that has the turn.
        self.set_debug(False)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """As in asyncio; wakes the loop for who has its turn, whose own context stays out of it."""
        if self.poller.until is _AWAKE:
            return super().call_soon(callback, *args, context=context)
        return self.call_soon_threadsafe(callback, *args, context=context or Context())

    def call_at(
        self, when: float, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As in asyncio; wakes the loop for who has its turn, if it would sleep too long. See `call_soon`."""
        handle = super().call_at(when, callback, *args, context=self._apart(context))
        if when < self.poller.until:
            self.call_soon_threadsafe(_nothing)
        return handle

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        """As in asyncio. See `call_soon`."""
        return super().create_task(coro, name=name, context=self._apart(context))

    def _apart(self, context: Context | None) -> Context | None:
        """An empty context for what is asked by who has the turn without saying which."""
        return Context() if context is None and self.poller.until is not _AWAKE else context


def _nothing() -> None:
    """The loop has been woken, and looks at its timers."""
