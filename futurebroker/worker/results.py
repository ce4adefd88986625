"""Where an executor writes what is too large for a report: to memory while there is room, else to disk."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
from pathlib import Path

from futurebroker.data.files import write_sealed_value, write_value
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
        if self._has_room(size):
            with contextlib.suppress(OSError):
                return str(write_value(self._folder, frames))
            return str(write_sealed_value(self._disk, frames))
        try:
            return str(write_sealed_value(self._disk, frames))
        except OSError:
            if self._is_on_disk:
                raise
        return str(write_value(self._folder, frames))

    @property
    def _is_on_disk(self) -> bool:
        return self._disk == self._folder

    def _has_room(self, size: int) -> bool:
        if self._room is None:
            return True
        (room,) = ROOM.unpack(self._room)
        return bool(size <= room)

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
