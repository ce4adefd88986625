"""The book of a worker's stored values: which it holds, how large they are, who still needs them (sans-IO).

Small values are bytes in the agent, larger ones files in its folder. A value goes when it was freed and no local task
is pinned to it; `doomed` then names its file for the owner of the folder to delete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from futurebroker.types import Key


class StoredValue(msgspec.Struct, eq=False):
    """One value: its bytes, or the path of its file."""

    nbytes: int
    data: bytes | None
    path: str = ""
    attempt: int = 0  #: of the task that made it; 0 for what came otherwise, -1 for a former scheduler's
    freed: bool = False  #: goes with its last pin
    holder: str = ""  #: the worker whose file it is; empty: ours
    pins: int = 0  #: how many inputs of local tasks it is


class ObjectStore:
    """See the top of this file."""

    def __init__(self) -> None:
        self._values: dict[Key, StoredValue] = {}
        #: bytes held here; files of other workers that are used in place don't count
        self.managed = 0
        #: files to delete
        self.doomed: list[str] = []
        self.get = self._values.get

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def __getitem__(self, key: Key) -> StoredValue:
        return self._values[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def paths(self) -> set[str]:
        """The files of all values."""
        return {value.path for value in self._values.values() if value.path}

    def put(self, key: Key, value: StoredValue) -> None:
        """Hold ``value``; one held before under this key goes, and its pins pass over."""
        values = self._values
        if key in values:
            before = values[key]
            value.pins += before.pins
            self._discard(before)
        values[key] = value
        if not value.holder:
            self.managed += value.nbytes

    def free(self, key: Key) -> None:
        """Nobody elsewhere needs it any more; unknown keys are ignored."""
        self.free_all((key,))

    def free_all(self, keys: Iterable[Key]) -> None:
        """As `free` of each."""
        values = self._values
        pop = values.pop
        for key in keys:
            value = pop(key, None)
            if value is None:
                continue
            if value.pins:
                value.freed = True
                values[key] = value
            elif value.path:
                self._discard(value)
            else:
                self.managed -= value.nbytes

    def unpin(self, key: Key) -> None:
        """A local task doesn't need it any more."""
        value = self._values[key]
        value.pins -= 1
        if value.freed and not value.pins:
            del self._values[key]
            self._discard(value)

    def _discard(self, value: StoredValue) -> None:
        if not value.holder:
            self.managed -= value.nbytes
            if value.path:
                self.doomed.append(value.path)

    def check(self) -> None:
        """Raise AssertionError where the book contradicts itself."""
        held = sum(value.nbytes for value in self._values.values() if not value.holder)
        assert self.managed == held, f"{self.managed} bytes on the books, {held} held"
        for key, value in self._values.items():
            assert value.pins >= 0, f"{key} has {value.pins} pins"
            assert value.pins or not value.freed, f"{key} is freed, unpinned, and still here"
            assert (value.data is None) == bool(value.path), f"{key} is neither bytes nor a file, or both"
