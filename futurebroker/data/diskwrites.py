"""Writes large files to disk: past the page cache where the disk is fast, else by the cache, which hides a slow one.

What goes to disk for want of memory is rarely read soon. The page cache would take as much memory again for it, and the
time to copy it there and to write it out from there is several times that of a fast disk's own.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
import time

#: bytes written at a time past the cache; their place in memory and in the file is a multiple of a page
CHUNK_BYTES = 4 * 1024 * 1024
#: bytes a second that a disk has to take to be written to directly, and seconds before a slow one is tried again
FAST = 300e6
AGAIN = 60.0
#: bytes after which a speed tells something
_TELLING = 8 * 1024 * 1024

_SCHEDULED = "/proc/thread-self/schedstat"
_DIRECT = getattr(os, "O_DIRECT", 0)


def waited_for_a_core() -> float:
    """Seconds for which this thread could have gone on and others had the processor; 0.0 where nobody counts them."""
    try:
        number = os.open(_SCHEDULED, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        return int(os.read(number, 128).split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
    finally:
        os.close(number)


class _Thread(threading.local):
    """A buffer for each thread that writes, kept because new memory costs more than the copy into it."""

    def __init__(self) -> None:
        self.buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))


_thread = _Thread()
#: until when disks are taken to be slow
_slow_until = 0.0


class DiskWriter:
    """Writes one file from its beginning to its end; the descriptor must stand at the beginning.

    One thread at a time may have one. Its methods raise OSError where the disk doesn't take it.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._filled = 0
        self._is_direct: bool | None = None  #: None: not decided, nothing is written yet
        self._written = 0
        self._seconds = 0.0

    def write(self, view: memoryview) -> None:
        """Add bytes."""
        buffer = _thread.buffer
        while view:
            part = view[: CHUNK_BYTES - self._filled]
            buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == CHUNK_BYTES:
                self._write_chunk(buffer)
                self._filled = 0

    def finish(self, trailer: bytes) -> None:
        """Write what is left, and ``trailer`` behind it."""
        global _slow_until
        if self._is_direct:
            self._set_direct(False)
            if self._written >= _TELLING and self._written < FAST * self._seconds:
                _slow_until = time.monotonic() + AGAIN
        _write_all(self._number, _thread.buffer[: self._filled])
        _write_all(self._number, memoryview(trailer))

    def _write_chunk(self, chunk: memoryview) -> None:
        if self._is_direct is None:
            self._set_direct(bool(_DIRECT) and time.monotonic() >= _slow_until)
        begun, waited = time.monotonic(), waited_for_a_core()
        while chunk:
            try:
                chunk = chunk[os.write(self._number, chunk) :]
            except OSError as error:
                if not self._is_direct or error.errno != errno.EINVAL:
                    raise
                self._set_direct(False)  # the file system can't, or not from within a page
        self._written += CHUNK_BYTES
        # A busy machine makes no disk slow.
        self._seconds += max(0.0, time.monotonic() - begun - (waited_for_a_core() - waited))

    def _set_direct(self, wanted: bool) -> None:
        flags = fcntl.fcntl(self._number, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._number, fcntl.F_SETFL, flags | _DIRECT if wanted else flags & ~_DIRECT)
        except OSError:  # the file system has no such thing
            wanted = False
        self._is_direct = wanted


def _write_all(number: int, view: memoryview) -> None:
    while view:
        view = view[os.write(number, view) :]
