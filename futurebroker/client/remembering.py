"""What a client sent and may have to send again: a scheduler that was restarted knows nothing of it.

A call is remembered until it is settled; longer if its result lies on a worker, or a call that is remembered depends on
it, because then the result may have to be computed again. One that `fire_and_forget` was called for is remembered until
the scheduler says that it has ended. Nothing is done for a call when it settles: what is not
needed any more is sorted out when about half of what is remembered has settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from itertools import repeat
from typing import Any

from futurebroker.client.calls import PreparedCall, PreparedColumn
from futurebroker.client.futures import FINISHED, LOST, PENDING, UNCHANGING, KeyState
from futurebroker.protocol.messages import PutValue
from futurebroker.protocol.serialize import dumps
from futurebroker.types import Key

#: calls and bytes of arguments that may be forgotten late
SLACK_CALLS = 8192
SLACK_BYTES = 16 * 1024 * 1024

Sent = PreparedColumn | PutValue


class Remembered:
    """The calls and the small data that were sent, in order; used on the I/O thread.

    Args:
        find: the state of a key, if any future of it is left.
        detached: keys that are needed without a future.
    """

    def __init__(self, find: Callable[[Key], KeyState | None], detached: Set[Key]) -> None:
        self._find = find
        self._detached = detached
        self._items: list[Sent] = []
        self._calls = 0
        self._bytes = 0
        #: calls settled when this was tidied last
        self._settled = 0

    def add(self, item: Sent) -> None:
        """Remember calls, or data."""
        self._items.append(item)
        self._calls += _count(item)
        if isinstance(item, PutValue):
            self._settled -= 1  # it soon is, and isn't counted as a call

    def tidy(self, sent: int, settled: int) -> None:
        """``sent`` bytes of arguments were added; forget what isn't needed, once that is likely to be half of all.

        Args:
            settled: calls of this client that were settled up to now.
        """
        self._bytes += sent
        if self._calls <= SLACK_CALLS and self._bytes <= SLACK_BYTES:
            return
        if settled - self._settled < self._calls // 2:
            return
        self._settled = settled
        self._items[:] = self._needed(frozenset())
        self._calls = sum(map(_count, self._items))
        self._bytes = sum(map(_size, self._items))

    def take(self, given: Set[Key]) -> tuple[dict[Key, PreparedCall | PreparedColumn | PutValue], set[Key]]:
        """All that must be sent again, inputs before what depends on them; it is forgotten here.

        Args:
            given: keys whose results the scheduler is given, so that they need not be computed.

        Returns:
            It by its keys, and keys that were used for another call while something still depended on the one before:
            the former scheduler has refused that, or would have.
        """
        items = self._needed(given)
        self._items.clear()
        self._calls = self._bytes = 0
        again: dict[Key, PreparedCall | PreparedColumn | PutValue] = {}
        refused: set[Key] = set()
        for item in items:
            for key, one in _each(item):
                # A key that was sent twice stays in its first place: what depends on it may stand between.
                known = again.setdefault(key, one)
                if isinstance(known, tuple) and isinstance(one, tuple) and known[0] is not one[0]:
                    refused.add(key)
        return again, refused

    def newest(self, keys: Set[Key]) -> list[PreparedCall | PreparedColumn]:
        """The last calls that were made under ``keys``."""
        found: dict[Key, PreparedCall | PreparedColumn] = {}
        if keys:
            for item in self._items:
                if isinstance(item, PreparedColumn) and not keys.isdisjoint(item.keys):
                    found |= {key: one for key, one in _each(item) if key in keys}  # type: ignore[misc]
        return list(found.values())

    def keys(self) -> Iterator[Key]:
        """All that was sent and isn't forgotten."""
        for item in self._items:
            if isinstance(item, PutValue):
                yield item.key
            else:
                yield from item.keys

    def _needed(self, given: Set[Key]) -> list[Sent]:
        """In order, what is not settled and what that depends on, but for what is ``given``.

        Of the calls under one key, the last counts, and one that something depends on which was sent before the next.
        """
        find, detached = self._find, self._detached
        inputs: set[Key] = set()
        last: set[Key] = set()

        def needed(key: Key) -> bool:
            if key in given:
                return False
            if key in inputs:
                inputs.discard(key)
                last.add(key)
                return True
            if key in last:
                return False
            last.add(key)
            state = find(key)
            return key in detached or (state is not None and (state.status is PENDING or _is_open(state)))

        kept: list[Sent] = []
        for item in reversed(self._items):
            if isinstance(item, PutValue):
                if needed(item.key):
                    kept.append(item)
                continue
            rows: list[int] = []
            for row in range(len(item.keys) - 1, -1, -1):
                if needed(item.keys[row]):
                    rows.append(row)
                    if item.dependencies is not None:
                        inputs.update(item.dependencies[row])
            if rows:
                kept.append(item if len(rows) == len(item.keys) else item.part(rows[::-1]))
        kept.reverse()
        return kept


def _each(item: Sent) -> Iterator[tuple[Key, PreparedCall | PreparedColumn | PutValue]]:
    """What was sent at once, one by one."""
    if isinstance(item, PutValue):
        yield item.key, item
    elif item.conditions is not None:
        yield from ((key, item.part([row])) for row, key in enumerate(item.keys))
    else:
        for key, arguments, inputs in zip(item.keys, item.arguments, item.dependencies or repeat(None)):
            yield key, (item.call, key, arguments, inputs or None)


def _count(item: Sent) -> int:
    return len(item.keys) if isinstance(item, PreparedColumn) else 1


def _size(item: Sent) -> int:
    return item.size if isinstance(item, PreparedColumn) else len(item.value)


def _is_open(state: KeyState) -> bool:
    """Whether the result isn't there, or could be lost with a worker."""
    status: Any = state.status
    if status is FINISHED:
        return state.held is not None
    return status is PENDING or status is LOST


def known_value(state: KeyState) -> bytes | None:
    """The bytes of a small result that is in this process, as they came; None if there are none."""
    if state.status is not FINISHED or state.held is not None:
        return None
    if state.value is not None:
        return state.value
    return dumps(state.result) if type(state.result) in UNCHANGING else None
