"""Where an executor writes what is too large for a report: to memory while there is room, else to disk."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import secrets
from pathlib import Path

from futurebroker.data.files import open_new, write_sealed_value, write_to, write_value
from futurebroker.data.reuse import LEAST, FreedFiles
from futurebroker.protocol.serialize import Buffer, frames_size
from futurebroker.types import Digest
from futurebroker.worker.packets import FUNCTIONS, ROOM, ROOM_BYTES, Setup


class ResultWriter:
    """The folders of one executor. How much may go to memory its agent writes to a page that both have mapped."""

    def __init__(self, setup: Setup) -> None:
        self._folder = Path(setup.folder)
        self._disk = Path(setup.disk) if setup.disk else None
        store = Path(setup.store)
        self._functions = [store / FUNCTIONS]
        if self._disk is not None and self._disk.parent != store:
            self._functions.append(self._disk.parent / FUNCTIONS)
        self._freed = FreedFiles(store) if setup.reuse else None
        self._room: mmap.mmap | None = None
        if setup.room:
            with open(setup.room, "rb") as file:
                self._room = mmap.mmap(file.fileno(), ROOM_BYTES, prot=mmap.PROT_READ)

    def write(self, frames: list[Buffer], size: int | None = None) -> str:
        """The path of a new file with ``frames``, of ``size`` bytes.

        A value without room in memory is streamed to disk; when that can't take it, memory has to, and the other way
        round.

        Raises:
            OSError: neither takes it; nothing is left behind.
        """
        size = frames_size(frames) if size is None else size
        if self._disk is None:
            return str(write_value(self._folder, frames))
        with contextlib.suppress(OSError):
            path = str(self._folder / secrets.token_hex(16))
            number = self._open_in_memory(path, size)
            if number >= 0:
                write_to(number, path, frames)
                return path
        try:
            return str(write_sealed_value(self._disk, frames))
        except OSError:
            if self._is_on_disk:
                raise
        return str(write_value(self._folder, frames))

    def _open_in_memory(self, path: str, size: int) -> int:
        """A descriptor of a file at ``path``, new or freed before, for ``size`` bytes; -1: there is no room."""
        freed = self._freed if size >= LEAST else None
        taken = freed.take(size, path) if freed is not None else None
        number, had = taken or (-1, 0)
        # What is kept of freed files counts against the room, so that there is more by what is deleted of it.
        lacking = size - had - self._room_left
        if lacking > 0 and (freed is None or freed.free_up(lacking) < lacking):
            if number >= 0:
                os.close(number)
                os.unlink(path)
            return -1
        return number if number >= 0 else open_new(path)

    @property
    def _is_on_disk(self) -> bool:
        return self._disk == self._folder

    @property
    def _room_left(self) -> int:
        if self._room is None:
            return 1 << 62
        (room,) = ROOM.unpack(self._room)
        return int(room)

    def close(self) -> None:
        """Let go of the page; what is written after this is taken to have room."""
        room, self._room = self._room, None
        if room is not None:
            room.close()

    def read_function(self, digest: Digest) -> bytes:
        """The pickled function that the agent keeps under ``digest``."""
        *others, last = self._functions
        for folder in others:
            with contextlib.suppress(FileNotFoundError):
                return (folder / digest.hex()).read_bytes()
        return (last / digest.hex()).read_bytes()


def trim() -> None:
    """Give back memory that nothing in this process uses any more."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
