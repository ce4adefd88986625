"""Futures, and the state that all futures of one key in one client share.

States are written with the connection's lock held (by its I/O thread, or by a cancelling thread) and read without it.
A `Future` costs two small objects and no lock: it is given up by appending its state to a queue, which is all that
``__del__`` may do, because it runs in any thread at any moment.
"""

from __future__ import annotations

import asyncio
import copy
import html
import pickle
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import nullcontext
from importlib import import_module
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import msgspec

from futurebroker.amounts import show_bytes
from futurebroker.client.waiters import Countdown, Waiter, pause, run_blocking, seconds
from futurebroker.exceptions import CancelledError, ResultError
from futurebroker.inside import current_task, pickled
from futurebroker.protocol.messages import Failure, Held, Message
from futurebroker.protocol.serialize import load_failure, loads_writable
from futurebroker.states import FutureState
from futurebroker.types import Key

# The text of each, not the member: see `KeyState`. Compared by identity all the same.
PENDING: Final = FutureState.PENDING.value
FINISHED: Final = FutureState.FINISHED.value
ERROR: Final = FutureState.ERROR.value
CANCELLED: Final = FutureState.CANCELLED.value
LOST: Final = FutureState.LOST.value

T = TypeVar("T")

#: result of a state whose bytes nobody has opened yet
UNOPENED: Final = object()
#: types of results that nobody can change once they are here, so that their bytes can be made again
UNCHANGING: Final = frozenset({int, float, str, bytes, bool, complex, type(None)})
#: what every pickle begins with
_PICKLED: Final = pickle.PROTO[0]

_loads = pickle.loads


class Keeper(Protocol):
    """What a future needs of the connection that it belongs to."""

    asynchronous: bool
    dropped: deque[KeyState]
    noticed: bool

    @property
    def lock(self) -> Any: ...

    def notice(self) -> None: ...
    def flush(self) -> None: ...
    def put(self, message: Message) -> None: ...
    def detach(self, states: list[KeyState]) -> None: ...
    def watch(self, states: list[KeyState], waiter: Waiter) -> int: ...
    def unwatch(self, states: list[KeyState], waiter: Waiter) -> None: ...
    def wait(self, countdown: Countdown, timeout: float | None) -> bool: ...
    def cancel(self, states: list[KeyState], force: bool, reason: str) -> None: ...
    def retry(self, states: list[KeyState]) -> None: ...
    def call_back(self, states: list[KeyState], call: Callable[[], object]) -> None: ...
    def fetch(self, state: KeyState, held: Held, blocking: bool) -> Any: ...
    def attach(self, key: Key) -> KeyState: ...


class Home(msgspec.Struct, eq=False, gc=False):
    """Where a state belongs. The garbage collector doesn't look inside: `Connection.close` breaks the circle."""

    keeper: Keeper


class KeyState(msgspec.Struct, eq=False):
    """What one client knows of one key.

    These are made by the hundred thousand, and the collector's visits to them were a third of what a call costs. It
    visits a struct only once a field holds something that can be part of a circle, as a list that is the result can;
    text, numbers, bytes and `Home` can't.
    """

    key: Key
    home: Home
    #: bytes of its arguments, counted against what the scheduler takes; -1 once settled
    size: int
    status: str = PENDING
    #: how many futures of it are alive
    refs: int = 1
    #: who is told when it is settled
    waiters: tuple[Waiter, ...] | None = None
    #: the result as it came; once it was opened only if its type is not in `UNCHANGING`
    value: bytes | None = None
    held: Held | None = None
    result: Any = UNOPENED
    #: why it failed or was cancelled
    cause: Failure | BaseException | None = None
    #: name of the result's type; empty as long as it isn't known, and for good if the key was only asked for
    type: str = ""
    #: futures of data that the client made of large arguments: without it the task could not be run again
    inputs: tuple[Future[Any], ...] = ()

    @property
    def keeper(self) -> Keeper:
        """The connection it belongs to."""
        return self.home.keeper

    def error(self) -> BaseException:
        """A new exception that says why this failed; one a call, so that tracebacks don't grow from raise to raise."""
        cause = self.cause
        if isinstance(cause, Failure):
            return load_failure(cause)
        return CancelledError(f"{self.key} was cancelled") if cause is None else copy.copy(cause)


def open_value(state: KeyState, value: bytes) -> Any:
    """The result of a finished state whose ``value`` came inline.

    Raises:
        ResultError: it can't be opened here; the message says why.
    """
    opening.keeper = state.home.keeper
    try:
        # Nearly all are one plain pickle, which begins with this byte.
        result = _loads(value) if value[0] == _PICKLED else loads_writable(value)
    except Exception as error:
        raise unopened(state.key, error) from error
    finally:
        opening.keeper = None
    state.result = result
    if type(result) in UNCHANGING:
        state.value = None  # others stay as they came: a scheduler that is restarted is given them
    return result


def unopened(key: Key, error: Exception) -> ResultError:
    """The error for a result that arrived and can't be opened in this program."""
    return ResultError(f"the result of {key} can't be opened here: {type(error).__name__}: {error}")


async def outcome(state: KeyState, blocking: bool) -> Any:
    """The result of a settled state, fetched if it lies elsewhere, or its error raised."""
    while True:
        if state.status is not FINISHED:
            if state.status is PENDING or state.status is LOST:
                await settle([state], blocking)
                continue
            raise state.error()
        # Each is read once: who cancels the key meanwhile takes it away.
        result, value, held = state.result, state.value, state.held
        if result is not UNOPENED:
            return result
        if value is not None:
            return open_value(state, value)
        if held is None:
            if state.status is not FINISHED or state.result is not UNOPENED or state.value is not None:
                continue
            raise ResultError(f"the result of {state.key} was not sent")
        result = await state.keeper.fetch(state, held, blocking)
        if result is not UNOPENED:
            return result


async def settle(states: list[KeyState], blocking: bool, timeout: float | None = None, eager: bool = False) -> bool:
    """Wait until all ``states`` of one connection are settled, with ``eager`` or one badly; False on timeout."""
    keeper = states[0].keeper
    waiter = Countdown(len(states), eager)
    if keeper.watch(states, waiter) == 0:
        return True
    ended = False
    try:
        ended = await pause(waiter, blocking, timeout, keeper.wait)
    finally:
        if not ended or eager:
            keeper.unwatch(states, waiter)
    return ended


class Future(Generic[T]):
    """The result of a task that may not have run yet: `concurrent.futures.Future` for another machine.

    The methods of `concurrent.futures.Future` mean what PEP 3148 says, but for ``set_result`` and its like, which are
    the scheduler's to call. `key`, `status`, `release`, `retry`, `traceback` and `type` are those of dask.distributed.
    Futures are equal only if they are the same object. When the last future of a key goes, its result is released.

    With an asynchronous client, `result`, `exception` and `traceback` return awaitables; ``await future`` works in any
    event loop and with every client.
    """

    __slots__ = ("__weakref__", "_held", "_state")

    #: tells dask that this stands for a result, wherever it is found in a graph
    __dask_future__: ClassVar[bool] = True

    def __dask_tokenize__(self) -> tuple[str, Key]:
        return type(self).__name__, self._state.key

    def __init__(self, state: KeyState) -> None:
        self._state = state
        self._held = True

    # -- what concurrent.futures has ---------------------------------------------------------------------------------

    def result(self, timeout: float | str | None = None) -> Any:
        """The result; blocks until it is there, or for ``timeout`` seconds, ``"500ms"`` or the like.

        Raises:
            TimeoutError: ``timeout`` seconds went by; the task goes on.
            CancelledError: it was cancelled.
            Exception: what the task raised, with the traceback of the task.
        """
        state = self._state
        if state.keeper.asynchronous:
            return self._result(False, timeout)
        try:
            return self.blocking_result(timeout)
        finally:
            # The exception's traceback holds this frame; it must not hold the future in turn.
            del self, state

    def blocking_result(self, timeout: float | str | None = None) -> Any:
        """As `result`, but blocks with an asynchronous client too; not to be called on an event loop's thread."""
        state = self._state
        if state.result is not UNOPENED and state.status is FINISHED:
            return self._pick(state.result)
        try:
            return run_blocking(self._result(True, timeout))
        finally:
            del self, state

    def exception(self, timeout: float | str | None = None) -> Any:
        """The exception the task raised, or None; blocks until that is known. Raises as `result` does for the rest."""
        return self._enter(self._exception, timeout)

    def traceback(self, timeout: float | str | None = None) -> Any:
        """The traceback of the exception the task raised, or None; blocks until that is known."""
        return self._enter(self._traceback, timeout)

    def done(self) -> bool:
        """Whether the task finished, failed or was cancelled."""
        status = self._state.status
        return status is not PENDING and status is not LOST

    def running(self) -> bool:
        """Always False, because a client isn't told when a task begins; ask ``client.processing()``."""
        return False

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._state.status is CANCELLED

    def cancel(self, reason: str = "") -> bool:
        """Give up the task, unless it is done; returns whether it is cancelled now.

        The status changes at once. What already runs is not interrupted and its result is dropped; tasks that depend
        on this one are cancelled too. Another client that wants the same key still gets it.
        """
        state = self._state
        if not self.done():
            state.keeper.cancel([state], False, reason)
        return state.status is CANCELLED

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(future)`` when this is done, at once if it is done already.

        All callbacks of a client run on one thread of their own, in the order of completion, as in dask.distributed;
        their exceptions are logged.
        """
        self._state.keeper.call_back([self._state], lambda: fn(self))

    # -- what dask.distributed adds ----------------------------------------------------------------------------------

    @property
    def key(self) -> Key:
        """Names the task and its result in the cluster."""
        return self._state.key

    @property
    def status(self) -> str:
        """One of "pending", "finished", "error", "cancelled" and "lost" (being computed again)."""
        return self._state.status

    @property
    def type(self) -> str | None:
        """Name of the result's type; None before it is known, and of a result that somebody else had computed."""
        return self._state.type or None

    def release(self) -> None:
        """Don't hold the result any longer, as if this future was deleted."""
        if self._held:
            self._held = False
            keeper = self._state.keeper
            keeper.dropped.append(self._state)
            if not keeper.noticed:
                keeper.notice()

    def retry(self) -> None:
        """Run a failed task again, from the task that failed first."""
        self._state.keeper.retry([self._state])

    # -- Python's own ------------------------------------------------------------------------------------------------

    def __del__(self) -> None:
        # Appends and at most asks to be noticed: no lock may be taken here.
        if self._held:
            try:
                state = self._state
                keeper = state.home.keeper
                keeper.dropped.append(state)
                if not keeper.noticed:
                    keeper.notice()
            except (AttributeError, TypeError):
                return  # the interpreter is half gone

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result(False, None).__await__()

    def __reduce__(self) -> tuple[Callable[..., Future[Any]], tuple[Any, ...]]:
        if pickled.keys is not None:
            pickled.keys.append(self._state.key)
        return unbound, (self._state.key,)

    @property
    def nbytes(self) -> int:
        """Bytes of a result that lies in a worker's store, pickled; 0 where none is known to."""
        held = self._state.held
        return held.nbytes if held is not None else 0

    def __repr__(self) -> str:
        kind = f", type: {self.type}" if self.type else ""
        size = f", {show_bytes(self.nbytes)}" if self.nbytes else ""
        return f"<Future: {self.status}{kind}{size}, key: {self.key}>"

    def _repr_html_(self) -> str:
        kind = f" <b>type:</b> {html.escape(self.type)}" if self.type else ""
        size = f" <b>size:</b> {show_bytes(self.nbytes)}" if self.nbytes else ""
        return f"<b>Future: {html.escape(self.key)}</b> <b>status:</b> {self.status}{kind}{size}"

    # -- inside ------------------------------------------------------------------------------------------------------

    def _pick(self, result: Any) -> Any:
        """This future's part of the result of its key; all of it, but in a chunk of `Client.map`."""
        return result

    def _enter(self, method: Callable[[bool, float | str | None], Any], timeout: float | str | None) -> Any:
        if self._state.keeper.asynchronous:
            return method(False, timeout)
        return run_blocking(method(True, timeout))

    async def _wait(self, blocking: bool, timeout: float | str | None) -> None:
        if self.done():
            return
        limit = seconds(timeout)
        if not await settle([self._state], blocking, limit):
            raise TimeoutError(f"{self._state.key} was not done after {limit:g} s")

    async def _result(self, blocking: bool, timeout: float | str | None) -> Any:
        try:
            await self._wait(blocking, timeout)
            return self._pick(await outcome(self._state, blocking))
        finally:
            del self

    async def _exception(self, blocking: bool, timeout: float | str | None) -> BaseException | None:
        await self._wait(blocking, timeout)
        if self._state.status is FINISHED:
            return None
        error = self._state.error()
        if self._state.status is CANCELLED:
            raise error
        return error

    async def _traceback(self, blocking: bool, timeout: float | str | None) -> TracebackType | None:
        error = await self._exception(blocking, timeout)
        return None if error is None else error.__traceback__


class ChunkFuture(Future[T]):
    """One call's part of a task of many calls; see ``chunksize`` of `Client.map`."""

    __slots__ = ("_index",)

    def __init__(self, state: KeyState, index: int) -> None:
        super().__init__(state)
        self._index = index

    @property
    def index(self) -> int:
        """Which of the chunk's results is this one's."""
        return self._index

    @property
    def type(self) -> str | None:
        """None: what is known is the type of the whole chunk's result."""
        return None

    def _pick(self, result: Any) -> Any:
        return result[self._index]

    def __reduce__(self) -> tuple[Callable[..., Future[Any]], tuple[Any, ...]]:
        if pickled.keys is not None:
            pickled.keys.append(self._state.key)
        return unbound, (self._state.key, self._index)


# -- futures without a client ----------------------------------------------------------------------------------------


class _Nobody:
    """The keeper of futures that were pickled: it refuses everything, with the way out."""

    asynchronous = False
    noticed = True

    def __init__(self) -> None:
        self.dropped: deque[KeyState] = deque(maxlen=0)
        self.lock = nullcontext()

    def notice(self) -> None:
        """Nobody is waiting to hear of it."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError(
            "this future was pickled and has no client any more; pass futures as arguments of a task, on their own or "
            "inside a list, tuple, set, dict or named tuple, and the task gets their results"
        )

    flush = put = detach = watch = unwatch = wait = cancel = retry = call_back = fetch = attach = _refuse


NOBODY: Final = _Nobody()
_NOWHERE: Final = Home(NOBODY)


class _Opening(threading.local):
    """Whose results this thread opens now; None: whose they are isn't known."""

    keeper: Keeper | None = None


opening: Final = _Opening()

#: module of clients inside tasks; loaded when a future comes to an executor in which none was made yet
INSIDE = "futurebroker.client.inside"
#: gives the connection that a future belongs to which is unpickled here; set by `client.core`, which knows the clients
find_keeper: list[Callable[[], Keeper | None]] = []


def unbound(key: Key, index: int | None = None) -> Future[Any]:
    """The future that unpickling one gives: it belongs to the client that opens it, or the current one.

    Where there is no client it has a key and is of no use, as in dask.distributed.
    """
    if not find_keeper and current_task.get(None) is not None:
        import_module(INSIDE)
    keeper = opening.keeper or (find_keeper[0]() if find_keeper else None)
    state = KeyState(key, _NOWHERE, 0) if keeper is None else keeper.attach(key)
    return Future(state) if index is None else ChunkFuture(state, index)


def ensure_future(thing: object) -> Future[Any]:
    """``thing`` if it is a future, else a TypeError that says what was given."""
    if isinstance(thing, Future):
        return thing
    hint = "; use asyncio's own functions for its futures" if isinstance(thing, asyncio.Future) else ""
    raise TypeError(f"expected a future of futurebroker, got {type(thing).__name__}{hint}")
