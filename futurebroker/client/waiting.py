"""Waiting for many futures: `wait`, `as_completed` and `fire_and_forget`. The futures may belong to several clients."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import Any, NamedTuple, Self

from futurebroker.client.futures import ERROR, Future, Keeper, KeyState, ensure_future
from futurebroker.client.gathering import only_futures_in
from futurebroker.client.waiters import Countdown, pause, run_blocking, seconds
from futurebroker.exceptions import CancelledError


class DoneAndNotDone(NamedTuple):
    """What `wait` returns."""

    done: set[Future[Any]]
    not_done: set[Future[Any]]


def wait(fs: Any, timeout: float | str | None = None, return_when: str = ALL_COMPLETED) -> Any:
    """Wait until ``fs`` are done, as `concurrent.futures.wait`; returns the sets ``done`` and ``not_done``.

    Failed futures are done and raise nothing here; a cancelled one raises CancelledError, as in dask.distributed. With
    futures of an asynchronous client this returns an awaitable.

    Args:
        fs: futures, in any nesting of lists, tuples, sets and dicts.
        return_when: ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION.

    Raises:
        TimeoutError: ``timeout`` seconds went by; unlike in `concurrent.futures`, but as in dask.distributed.
    """
    if isinstance(timeout, (Future, list, tuple, set)):
        raise TypeError(f"timeout= takes seconds, got {type(timeout).__name__}; give several futures as one list")
    limit = seconds(timeout)
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"return_when= takes ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION, got {return_when!r}")
    futures = list(only_futures_in(fs))
    asynchronous = any(future._state.keeper.asynchronous for future in futures)
    coroutine = _wait(futures, limit, return_when, not asynchronous)
    return coroutine if asynchronous else run_blocking(coroutine)


async def _wait(futures: list[Future[Any]], timeout: float | None, return_when: str, blocking: bool) -> DoneAndNotDone:
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        done = {future for future in futures if future.done()}
        for future in done:
            if future.cancelled():
                raise future._state.error()
        not_done = {future for future in futures if future not in done}
        enough = (
            not not_done
            or (return_when == FIRST_COMPLETED and done)
            or (return_when == FIRST_EXCEPTION and any(future._state.status is ERROR for future in done))
        )
        if enough:
            return DoneAndNotDone(done, not_done)
        left = None if end is None else end - time.monotonic()
        count = 1 if return_when == FIRST_COMPLETED else len(not_done)
        if not await _pause_for([future._state for future in not_done], count, left, blocking):
            raise TimeoutError(f"{len(not_done)} of {len(futures)} futures were not done after {timeout:g} s")


async def _pause_for(states: list[KeyState], count: int, timeout: float | None, blocking: bool) -> bool:
    """Wait until ``count`` of ``states`` are settled, or one has failed."""
    waiter = Countdown(count, eager=True)
    watched = by_keeper(states)
    for keeper, some in watched.items():
        keeper.watch(some, waiter)
    try:
        return await pause(waiter, blocking, timeout)
    finally:
        for keeper, some in watched.items():
            keeper.unwatch(some, waiter)


def by_keeper(states: Iterable[KeyState]) -> dict[Keeper, list[KeyState]]:
    """States, by the client they belong to."""
    groups: dict[Keeper, list[KeyState]] = {}
    for state in states:
        groups.setdefault(state.keeper, []).append(state)
    return groups


class as_completed:  # noqa: N801 - the name is that of concurrent.futures and dask
    """Iterates over futures in the order in which they are done; more may be added on the way.

    A future comes as often as it was added. Failed and cancelled ones come too and raise nothing, unless
    ``with_results``. Use ``async for`` with an asynchronous client.

    Args:
        with_results: give pairs of future and result.
        raise_errors: with ``with_results``, raise what a task raised; else the exception stands for the result.
        timeout: seconds from now after which waiting raises TimeoutError.
    """

    def __init__(
        self,
        futures: Iterable[Future[Any]] = (),
        *,
        with_results: bool = False,
        raise_errors: bool = True,
        timeout: float | str | None = None,
    ) -> None:
        self._with_results = with_results
        self._raise_errors = raise_errors
        limit = self._timeout = seconds(timeout)
        self._end = None if limit is None else time.monotonic() + limit
        #: futures that are not given yet, by the identity of their state
        self._awaited: dict[int, list[Future[Any]]] = {}
        self._settled: deque[KeyState] = deque()
        self._ready: deque[Future[Any]] = deque()
        self._sleeper: Countdown | None = None
        self.update(futures)

    # -- adding ------------------------------------------------------------------------------------------------------

    def add(self, future: Future[Any]) -> None:
        """Wait for this one as well."""
        self.update((future,))

    def update(self, futures: Iterable[Future[Any]]) -> None:
        """Wait for these as well."""
        new: list[KeyState] = []
        for future in futures:
            state = ensure_future(future)._state
            waiting = self._awaited.setdefault(id(state), [])
            if not waiting:
                new.append(state)
            waiting.append(future)
        for keeper, states in by_keeper(new).items():
            keeper.watch(states, self)

    def clear(self) -> None:
        """Wait for none of them any more."""
        states = {id(future._state): future._state for some in self._awaited.values() for future in some}
        self._awaited.clear()
        for keeper, some in by_keeper(states.values()).items():
            keeper.unwatch(some, self)
        self._settled.clear()
        self._ready.clear()

    def ready(self, settled: Sequence[KeyState]) -> None:
        """See `Waiter.ready`."""
        self._settled.extend(settled)
        sleeper = self._sleeper
        if sleeper is not None:
            sleeper.end()

    # -- looking -----------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """How many are not given yet."""
        self._sort()
        return len(self._ready) + sum(map(len, self._awaited.values()))

    def is_empty(self) -> bool:
        """Whether all were given."""
        return self.count() == 0

    def has_ready(self) -> bool:
        """Whether the next one comes without waiting."""
        self._sort()
        return bool(self._ready)

    def _sort(self) -> None:
        """Move the futures of settled keys to those that are ready."""
        while self._settled:
            self._ready.extend(self._awaited.pop(id(self._settled.popleft()), ()))

    # -- iterating ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._outcome(run_blocking(self._next(True)), StopIteration)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self._outcome_async(await self._next(False))

    def next_batch(self, block: bool = True) -> list[Any]:
        """All that are ready; waits for at least one unless ``block`` is False."""
        self._sort()
        batch = [next(self)] if block and not self._ready and self._awaited else []
        while self.has_ready():
            batch.append(next(self))
        return batch

    def batches(self) -> Iterator[list[Any]]:
        """Lists of what became ready in the meantime, until all were given."""
        while not self.is_empty():
            yield self.next_batch()

    async def _next(self, blocking: bool) -> Future[Any] | None:
        while True:
            self._sort()
            if self._ready:
                return self._ready.popleft()
            if not self._awaited:
                return None
            sleeper = self._sleeper = Countdown(1)
            # What settled before the line above woke nobody.
            if self._settled:
                continue
            left = None if self._end is None else self._end - time.monotonic()
            if not await pause(sleeper, blocking, left):
                raise TimeoutError(f"{self.count()} futures were not done after {self._timeout:g} s")

    def _outcome(self, future: Future[Any] | None, stop: type[Exception]) -> Any:
        if future is None:
            raise stop
        if not self._with_results:
            return future
        try:
            return future, future.blocking_result()
        except (Exception, CancelledError) as error:
            if self._raise_errors:
                raise
            return future, error

    async def _outcome_async(self, future: Future[Any] | None) -> Any:
        if future is None:
            raise StopAsyncIteration
        if not self._with_results:
            return future
        try:
            return future, await future
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if self._raise_errors:
                raise
            return future, error


def fire_and_forget(obj: Any) -> None:
    """Have tasks run to their end even if all their futures are deleted, as in dask.distributed.

    Args:
        obj: a future, or futures in any nesting of lists, tuples, sets and dicts.
    """
    states = [future._state for future in only_futures_in(obj)]
    for keeper, some in by_keeper(states).items():
        keeper.detach(some)


__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "DoneAndNotDone",
    "as_completed",
    "fire_and_forget",
    "wait",
]
