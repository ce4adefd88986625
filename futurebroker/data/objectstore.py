"""The book of a worker's stored values: which it holds, where and how large, who still needs them (sans-IO).

Small values are bytes in the agent, larger ones files: in memory (tmpfs), or on disk, where they were moved or written
for want of memory. A value goes when it was freed and no local task is pinned to it; `doomed` then names its files for
the owner of the folders to delete. Those of some size are kept in the order of their last use, for spilling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from futurebroker.data.names import is_sealed
from futurebroker.protocol.messages import KEEP_LIMIT
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
    on_disk: str = ""  #: the path of its file on disk; empty: it is in memory
    spilling: bool = False  #: being copied to disk
    busy_until: float = 0.0  #: it was mapped when it was to be spilled; not to be tried again before this


class ObjectStore:
    """See the top of this file."""

    def __init__(self) -> None:
        self._values: dict[Key, StoredValue] = {}
        #: those that may be spilled, the least recently used first
        self._by_use: dict[Key, StoredValue] = {}
        #: bytes held here in memory; files of other workers that are used in place don't count
        self.managed = 0
        #: those of them that are in files
        self.in_files = 0
        #: bytes on disk
        self.spilled = 0
        #: the same, by what keys begin with
        self.spilled_kinds: Counter[str] = Counter()
        #: bytes of values that are being copied to disk
        self.spilling = 0
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
        values = self._values.values()
        return {path for value in values for path in (value.path, value.on_disk) if path}

    def put(self, key: Key, value: StoredValue) -> None:
        """Hold ``value``; one held before under this key goes, and its pins pass over."""
        values = self._values
        if key in values:
            before = values[key]
            value.pins += before.pins
            self._discard(key, before)
        values[key] = value
        if value.holder:
            return
        nbytes = value.nbytes
        if value.path:
            if is_sealed(value.path):
                value.on_disk = value.path
                self._count_spilled(key, nbytes)
                return
            self.in_files += nbytes
        self.managed += nbytes
        # The scheduler keeps smaller ones itself and frees them at once.
        if nbytes > KEEP_LIMIT:
            self._by_use[key] = value

    def touch(self, key: Key, value: StoredValue) -> None:
        """``value`` is being used."""
        if self._by_use.pop(key, None) is not None:
            self._by_use[key] = value

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
            elif value.path or value.nbytes > KEEP_LIMIT:
                self._discard(key, value)
            else:
                self.managed -= value.nbytes

    def unpin(self, key: Key) -> None:
        """A local task doesn't need it any more."""
        value = self._values[key]
        value.pins -= 1
        if value.freed and not value.pins:
            del self._values[key]
            self._discard(key, value)

    def _discard(self, key: Key, value: StoredValue) -> None:
        if value.holder:
            return
        self._by_use.pop(key, None)
        if value.spilling:
            self.spilling -= value.nbytes
        if value.on_disk:
            self._count_spilled(key, -value.nbytes)
            if value.on_disk != value.path:
                self.doomed.append(value.on_disk)
        else:
            self.managed -= value.nbytes
            if value.path:
                self.in_files -= value.nbytes
        if value.path:
            self.doomed.append(value.path)

    # -- spilling ---------------------------------------------------------------------------------------------------

    def to_spill(self, nbytes: int, now: float) -> list[tuple[Key, StoredValue]]:
        """The least recently used values of ``nbytes`` together, as far as there are such that can be spilled."""
        chosen = []
        for key, value in self._by_use.items():
            if nbytes <= 0:
                break
            if not value.spilling and value.busy_until <= now:
                chosen.append((key, value))
                nbytes -= value.nbytes
        return chosen

    def spill_begins(self, value: StoredValue) -> None:
        """``value`` is being copied to disk; it is still in memory."""
        value.spilling = True
        self.spilling += value.nbytes

    def spill_ends(self, key: Key, value: StoredValue, path: str) -> None:
        """``value`` is at ``path`` on disk now, and nowhere else; without a path it stays where it was."""
        value.spilling = False
        self.spilling -= value.nbytes
        if not path:
            return
        del self._by_use[key]
        self.managed -= value.nbytes
        self._count_spilled(key, value.nbytes)
        if value.path:
            self.in_files -= value.nbytes
        else:
            value.data, value.path = None, path
        value.on_disk = path

    def _count_spilled(self, key: Key, nbytes: int) -> None:
        self.spilled += nbytes
        kind = key.rpartition("-")[0] or key
        self.spilled_kinds[kind] += nbytes
        if not self.spilled_kinds[kind]:
            del self.spilled_kinds[kind]

    def check(self) -> None:
        """Raise AssertionError where the book contradicts itself."""
        ours = [value for value in self._values.values() if not value.holder]
        inside = [value for value in ours if not value.on_disk]
        held = sum(value.nbytes for value in inside)
        assert self.managed == held, f"{self.managed} bytes on the books, {held} held"
        assert self.in_files == sum(value.nbytes for value in inside if value.path), f"{self.in_files} bytes in files"
        assert self.spilled == sum(value.nbytes for value in ours if value.on_disk), f"{self.spilled} bytes on disk"
        assert self.spilled == sum(self.spilled_kinds.values()), f"{self.spilled_kinds} by kind"
        assert self.spilling == sum(value.nbytes for value in ours if value.spilling), f"{self.spilling} on the way"
        assert set(self._by_use) == {
            key for key, value in self._values.items() if value in inside and value.nbytes > KEEP_LIMIT
        }
        for key, value in self._values.items():
            assert value.pins >= 0, f"{key} has {value.pins} pins"
            assert value.pins or not value.freed, f"{key} is freed, unpinned, and still here"
            assert (value.data is None) == bool(value.path), f"{key} is neither bytes nor a file, or both"
            assert not value.spilling or not value.on_disk, f"{key} is on disk and on its way there"
