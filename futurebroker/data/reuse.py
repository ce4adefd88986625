"""Files of freed values in memory, kept a while for the next ones: pages that were used before are quicker to fill.

A private map shows what is written to its file later, so a file is written again only when nobody can see it any more:

1. It gets another name first. A path names one value for ever; whoever opens it later finds nothing. Who opened it
   just then looks at the name again before using what was opened (`sealed.open_for_reading`).
2. Then the kernel is asked for a write lease, which it gives to the only user of a file: an open descriptor or a map,
   of whatever process, refuses it. So does a second name that another worker has given it: that is counted.

An agent keeps files (`keep`, `shed`), its executors and itself take them (`take`, `free_up`), each by one renaming or
deleting, so that they need no lock between them. The folder goes with the agent's, in whatever way that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

from futurebroker.data.names import is_sealed

#: bytes of files worth keeping
LEAST = 1024 * 1024
#: files that are kept at most: a look at all of them must cost nothing beside filling one
FILES = 32
#: how much larger than the value, and what part of it at least, a file may be
_LARGER = 1.5
_PART = 0.5
_FOLDER = "freed"
_MODE = 0o600


def others_use(number: int) -> bool | None:
    """Whether another descriptor or a map, of any process, uses an open file of ours; None: the kernel doesn't tell."""
    with asking(number) as answer:
        return answer


@contextlib.contextmanager
def asking(number: int) -> Iterator[bool | None]:
    """As `others_use`; who opens the file meanwhile is held up, so be quick."""
    try:
        # Who opens it makes the kernel send us a signal, and the usual one would end the process.
        fcntl.fcntl(number, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(number, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        yield True
    except (OSError, AttributeError):
        yield None
    else:
        try:
            yield False
        finally:
            fcntl.fcntl(number, fcntl.F_SETLEASE, fcntl.F_UNLCK)


class FreedFiles:
    """See the top of this file."""

    def __init__(self, store: Path) -> None:
        self._folder = store / _FOLDER
        self._last = 0

    @classmethod
    def begin(cls, store: Path) -> FreedFiles | None:
        """Of an agent's folder in memory; None where the kernel can't tell who uses a file there."""
        freed = cls(store)
        freed._folder.mkdir(mode=0o700)
        return freed if _leases_tell(freed._folder / "probe") else None

    # -- keeping ----------------------------------------------------------------------------------------------------

    def keep(self, path: str, most: int) -> bool:
        """Keep the file of a value that nobody needs; False: it is to be deleted.

        No more than ``most`` bytes are kept then: the oldest give way.
        """
        try:
            status = os.lstat(path)
            if not _is_reusable(status) or not LEAST <= status.st_size <= most:
                return False
            self.shed(most - status.st_size, FILES - 1)
            self._last += 1
            os.rename(path, self._folder / f"{status.st_size}-{self._last}")
        except OSError:
            return False
        return True

    def shed(self, most: int, files: int = FILES) -> None:
        """Delete the oldest, until no more than ``most`` bytes in no more than ``files`` are kept."""
        entries = self._entries()
        total = sum(nbytes for nbytes, _, _ in entries)
        for at, (nbytes, _, name) in enumerate(sorted(entries, key=lambda entry: entry[1])):
            if total <= most and len(entries) - at <= files:
                break
            self._delete(name)
            total -= nbytes

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(nbytes for nbytes, _, _ in self._entries())

    # -- taking -----------------------------------------------------------------------------------------------------

    def take(self, nbytes: int, target: str) -> tuple[int, int] | None:
        """A descriptor of a file at ``target`` that holds ``nbytes`` or less, whatever they are, and how many.

        None: nothing that is kept is of this size and unused.
        """
        if nbytes < LEAST:
            return None
        fitting = [entry for entry in self._entries() if nbytes * _PART <= entry[0] <= nbytes * _LARGER]
        # The smallest that is large enough, else the largest.
        fitting.sort(key=lambda entry: (entry[0] < nbytes, abs(entry[0] - nbytes)))
        for _, _, name in fitting:
            try:
                os.rename(self._folder / name, target)
            except OSError:  # somebody else took it
                continue
            number = os.open(target, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            status = os.fstat(number)
            if _is_reusable(status) and others_use(number) is False:
                if status.st_size > nbytes:
                    os.ftruncate(number, nbytes)
                return number, min(nbytes, status.st_size)
            os.close(number)
            if _is_reusable(status):  # later, perhaps
                os.rename(target, self._folder / name)
            else:
                os.unlink(target)
        return None

    def free_up(self, nbytes: int) -> int:
        """Delete files of so many bytes together; how many they were."""
        freed = 0
        for size, _, name in sorted(self._entries(), key=lambda entry: entry[1]):
            if freed >= nbytes:
                break
            if self._delete(name):
                freed += size
        return freed

    def _delete(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._folder / name)
            return True
        return False

    def _entries(self) -> list[tuple[int, int, str]]:
        """Bytes, age (the lowest is the oldest) and name of each."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        return [(int(size), int(number), name) for name in names for size, _, number in [name.partition("-")] if number]


def begin_file(path: str, nbytes: int, freed: FreedFiles | None) -> int:
    """A descriptor of a new file for ``nbytes``, mode 0600, to be read and written: a freed one if there is one.

    What a freed one holds is to be written over: it has no more bytes than that.
    """
    taken = freed.take(nbytes, path) if freed is not None and not is_sealed(path) else None
    if taken is not None:
        return taken[0]
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)


def _is_reusable(status: os.stat_result) -> bool:
    """Whether it is a plain file of one name, as the files of values are."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and stat.S_IMODE(status.st_mode) == _MODE


def _leases_tell(path: Path) -> bool:
    """Whether the kernel refuses a lease while a file is mapped, and only then."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.write(number, b"x")
        before = others_use(number)
        other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            mapped = mmap.mmap(other, 1, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        finally:
            os.close(other)
        with mapped:
            during = others_use(number)
        return (before, during, others_use(number)) == (False, True, False)
    finally:
        os.close(number)
        os.unlink(path)
