"""Gathers the results of futures nested in containers, in one wait for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from futurebroker.client.futures import (
    CANCELLED,
    ERROR,
    FINISHED,
    LOST,
    PENDING,
    UNOPENED,
    ChunkFuture,
    Future,
    Keeper,
    KeyState,
    ensure_future,
    outcome,
    settle,
)

_CONTAINERS: Final = frozenset({list, tuple, set, frozenset, dict})
_FUTURES: Final = frozenset({Future, ChunkFuture})
#: stands for a result that is left out
_SKIPPED: Final = object()


async def gather(keeper: Keeper, futures: Any, errors: str, blocking: bool) -> Any:
    """See `Client.gather`."""
    if errors not in ("raise", "skip"):
        raise ValueError(f"errors= takes 'raise' or 'skip', got {errors!r}")
    if isinstance(futures, Iterator):
        futures = list(futures)
    found = list(futures_in(futures))
    for future in found:
        if future._state.keeper is not keeper:
            raise ValueError(f"{future!r} belongs to another client; gather it there")
    states = list({id(future._state): future._state for future in found}.values())
    await _settled(states, errors == "raise", blocking)
    if type(futures) is list and _FUTURES.issuperset(map(type, futures)):
        results = [await _result(future, errors, blocking) for future in futures]
        return results if errors == "raise" else [result for result in results if result is not _SKIPPED]
    opened = {id(future): await _result(future, errors, blocking) for future in found}
    result = _rebuild(futures, opened)
    return None if result is _SKIPPED else result


async def _settled(states: list[KeyState], eager: bool, blocking: bool) -> None:
    """Wait for all; with ``eager`` raise as soon as one has failed or was cancelled."""
    while True:
        waiting = [state for state in states if state.status is PENDING or state.status is LOST]
        if eager and len(waiting) < len(states):
            for state in states:
                if state.status is ERROR or state.status is CANCELLED:
                    raise state.error()
        if not waiting:
            return
        await settle(waiting, blocking, eager=eager)


async def _result(future: Future[Any], errors: str, blocking: bool) -> Any:
    state = future._state
    if state.result is not UNOPENED and state.status is FINISHED:
        return future._pick(state.result)
    if errors == "raise":
        return future._pick(await outcome(state, blocking))
    if state.status is ERROR or state.status is CANCELLED:
        return _SKIPPED
    return future._pick(await outcome(state, blocking))


def _is_container(value: Any) -> bool:
    return type(value) in _CONTAINERS or (isinstance(value, tuple) and hasattr(value, "_make"))


def futures_in(value: Any) -> Iterator[Future[Any]]:
    """The futures in nested lists, tuples, sets, frozensets, dict values and named tuples, as often as they occur."""
    if isinstance(value, Future):
        yield value
    elif _is_container(value):
        items: Iterable[Any] = value.values() if type(value) is dict else value
        for item in items:
            if isinstance(item, Future):
                yield item
            elif _is_container(item):
                yield from futures_in(item)


def only_futures_in(value: Any) -> Iterator[Future[Any]]:
    """As `futures_in`, also through other iterables; a TypeError for anything that isn't a future."""
    if isinstance(value, (Future, str, bytes)) or not isinstance(value, Iterable):
        yield ensure_future(value)
    else:
        for item in value.values() if isinstance(value, dict) else value:
            yield from only_futures_in(item)


def _rebuild(value: Any, results: dict[int, Any]) -> Any:
    """``value`` with each future replaced by its result; what is skipped is left out of its container."""
    if isinstance(value, Future):
        return results[id(value)]
    if not _is_container(value):
        return value
    kind = type(value)
    if kind is dict:
        pairs = ((key, _rebuild(item, results)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not _SKIPPED}
    items = [_rebuild(item, results) for item in value]
    if kind not in _CONTAINERS:
        return kind._make([None if item is _SKIPPED else item for item in items])
    return kind(item for item in items if item is not _SKIPPED)
