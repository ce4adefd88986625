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
    open_value,
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
    if type(futures) is list and _FUTURES.issuperset(map(type, futures)):
        return await _gather_list(keeper, futures, errors == "raise", blocking)
    found = list(futures_in(futures))
    results = await _gather_list(keeper, found, errors == "raise", blocking, _SKIPPED)
    result = _rebuild(futures, {id(future): result for future, result in zip(found, results)})
    return None if result is _SKIPPED else result


async def _gather_list(
    keeper: Keeper, futures: list[Future[Any]], strict: bool, blocking: bool, instead: Any = None
) -> list[Any]:
    """The results of ``futures``. Unless ``strict``, those that failed are left out, or are ``instead`` if given."""
    states = [future._state for future in futures]
    for future, state in zip(futures, states):
        if state.home.keeper is not keeper:
            raise ValueError(f"{future!r} belongs to another client; gather it there")
    await _settled(states, strict, blocking)
    results: list[Any] = []
    for future, state in zip(futures, states):
        # Each is read once: who cancels the key meanwhile takes it away.
        result, value = state.result, state.value
        if state.status is FINISHED and result is UNOPENED and value is not None:
            result = open_value(state, value)
        elif state.status is not FINISHED or result is UNOPENED:
            if not strict and (state.status is ERROR or state.status is CANCELLED):
                if instead is not None:
                    results.append(instead)
                continue
            result = await outcome(state, blocking)
        results.append(future._pick(result) if type(future) is ChunkFuture else result)
    return results


async def _settled(states: list[KeyState], strict: bool, blocking: bool) -> None:
    """Wait for all; if ``strict``, raise as soon as one has failed or was cancelled."""
    while unfinished := [state for state in states if state.status is not FINISHED]:
        waiting = [state for state in unfinished if state.status is PENDING or state.status is LOST]
        if strict and len(waiting) < len(unfinished):
            for state in unfinished:
                if state.status is ERROR or state.status is CANCELLED:
                    raise state.error()
        if not waiting:
            return
        await settle(waiting, blocking, eager=strict)


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
