"""Folders for stored values: private to one process, removed when it ends, and by the next process if it couldn't.

A folder belongs to the process that holds the lock on the file inside it. The kernel drops that lock however the
process ends, so whoever finds a folder unlocked may remove it; making and removing are kept apart by a lock on the
parent, or a folder could be removed between its making and its locking.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

#: bytes that must be free in shared memory, or folders are made on disk
SHARED_MEMORY_LEAST = 512 * 1024 * 1024
SHARED_MEMORY = Path("/dev/shm")

_LASTING = Path("/var/tmp")
_MEMORY_KINDS = ("tmpfs", "ramfs")
_LOCK = ".lock"


class StoreFolder:
    """One process's folder of stored values, mode 0700; `close` removes it, as does the end of the program."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._finalizer = weakref.finalize(self, _remove, path, lock, os.getpid())

    def close(self) -> None:
        """Remove the folder with all it holds. May be called twice."""
        self._finalizer()

    @classmethod
    def make(cls, base: str | None = None) -> StoreFolder:
        """A new folder under ``base``, or on tmpfs where that is big enough, else on disk.

        Folders there whose processes are gone are removed.

        Raises:
            OSError: ``base`` can't be written to, or belongs to somebody else.
        """
        return cls._make(_parent(base if base is not None else _roomiest()))

    @classmethod
    def make_on_disk(cls, base: str | None = None) -> StoreFolder:
        """As `make`, under ``base`` or where temporary files are kept on disk."""
        return cls._make(_parent(base if base is not None else _on_disk()))

    @property
    def is_memory(self) -> bool:
        """Whether what is in it takes memory."""
        return _kind_of(self.path) in _MEMORY_KINDS

    @classmethod
    def _make(cls, parent: Path) -> StoreFolder:
        with _locked(parent / _LOCK):
            _sweep(parent)
            path = parent / secrets.token_hex(8)
            path.mkdir(mode=0o700)
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, lock)


def _parent(root: str | Path) -> Path:
    parent = Path(root) / f"futurebroker-{os.getuid()}"
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.lstat(parent)
    if status.st_uid != os.getuid() or not os.path.isdir(parent) or os.path.islink(parent):
        raise PermissionError(f"{parent} belongs to somebody else; name another folder")
    return parent


def _roomiest() -> Path:
    """Shared memory when enough of it is free, else the folder for temporary files on disk."""
    return _on_disk() if memory_folder_reason() else SHARED_MEMORY


def memory_folder_reason() -> str:
    """Why values can't be kept in shared memory; empty if they can."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        return f"there is no shared memory: {error}"
    free = status.f_bavail * status.f_frsize
    if free < SHARED_MEMORY_LEAST:
        return f"{SHARED_MEMORY} has {free:,} bytes free, fewer than {SHARED_MEMORY_LEAST:,}"
    return "" if os.access(SHARED_MEMORY, os.W_OK) else f"{SHARED_MEMORY} can't be written to"


def _on_disk() -> Path:
    """The folder for temporary files; where that lies in memory, the one for those that outlive a restart."""
    usual = Path(tempfile.gettempdir())
    if _kind_of(usual) in _MEMORY_KINDS and _kind_of(_LASTING) not in _MEMORY_KINDS and os.access(_LASTING, os.W_OK):
        return _LASTING
    return usual


def _kind_of(path: Path) -> str:
    """The kind of file system that ``path`` is on; empty if that can't be told."""
    best, kind = -1, ""
    try:
        real = os.path.realpath(path)
        lines = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        place = fields[1].rstrip("/")
        if len(place) > best and (real == place or real.startswith(f"{place}/")):
            best, kind = len(place), fields[2]
    return kind


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _sweep(parent: Path) -> None:
    """Remove the folders whose processes are gone; the parent must be locked."""
    for path in parent.iterdir():
        if path.name == _LOCK or not path.is_dir():
            continue
        try:
            number = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            shutil.rmtree(path, ignore_errors=True)
            continue
        except OSError:
            continue
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(number)


def _remove(path: Path, lock: int, pid: int) -> None:
    if os.getpid() != pid:  # a fork has the finalizer, but not the folder
        return
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
