"""Values as files: written once under a name nobody can guess, mapped by whoever on this host is told the name.

A map is private and copy-on-write, so a NumPy array opened from it is writable and nobody else sees what is written.
Unlinking a file leaves the maps of it as they are.
"""

from __future__ import annotations

import mmap
import os
import secrets
import stat
from itertools import islice
from pathlib import Path

from futurebroker.data.folders import StoreFolder
from futurebroker.protocol.serialize import Buffer, layout

#: pieces one call to ``writev`` may take
_PIECES = 512

_folders: list[StoreFolder] = []


def store_folder(base: str | None = None) -> Path:
    """A new folder for this process's values, which goes when the process ends; see `StoreFolder.make`."""
    folder = StoreFolder.make(base)
    _folders.append(folder)
    return folder.path


def write_value(folder: Path, frames: list[Buffer]) -> Path:
    """Write the frames of a value to a new file in ``folder``, mode 0600; `map_value` opens it.

    Raises:
        OSError: there is no room; nothing is left behind.
    """
    path = folder / secrets.token_hex(16)
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_all(number, frames)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(number)
    return path


def _write_all(number: int, frames: list[Buffer]) -> None:
    pieces = iter(layout(frames))
    while batch := [view for piece in islice(pieces, _PIECES) if len(view := memoryview(piece))]:
        written = os.writev(number, batch)
        for view in batch:
            if written >= view.nbytes:
                written -= view.nbytes
                continue
            rest = view[written:]
            written = 0
            while rest:
                rest = rest[os.write(number, rest) :]


def map_value(path: str) -> memoryview:
    """The bytes of a value's file, mapped privately and writable; `serialize.loads` opens the value in place.

    Raises:
        FileNotFoundError, PermissionError: it isn't on this host, or isn't ours.
    """
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            raise PermissionError(f"{path} holds no value")
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        return memoryview(mmap.mmap(number, status.st_size, flags=mmap.MAP_PRIVATE, prot=prot))
    finally:
        os.close(number)
