"""Values as files: written once under a name nobody can guess, mapped by whoever on this host is told the name.

A map is private and copy-on-write, so a NumPy array opened from it is writable and nobody else sees what is written.
Unlinking a file leaves the maps of it as they are. In memory (tmpfs) they are plain, on disk they are sealed.
"""

from __future__ import annotations

import os
import secrets
from itertools import islice
from pathlib import Path

from futurebroker.data.folders import StoreFolder
from futurebroker.data.names import SUFFIX
from futurebroker.data.sealed import Contents, open_for_reading, write_all, write_sealed
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
    write_to(open_new(path), str(path), frames)
    return path


def open_new(path: str | Path) -> int:
    """A descriptor of a new file, mode 0600."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def write_to(number: int, path: str, frames: list[Buffer]) -> None:
    """Write the frames of a value to the open file at ``path``, and close it; it is deleted if that fails."""
    try:
        _write_pieces(number, frames)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(number)


def write_sealed_value(folder: Path, frames: list[Buffer]) -> Path:
    """As `write_value`, with checksums: for a folder on disk."""
    path = folder / f"{secrets.token_hex(16)}{SUFFIX}"
    write_sealed(str(path), layout(frames))
    return path


def _write_pieces(number: int, frames: list[Buffer]) -> None:
    pieces = iter(layout(frames))
    while batch := [view for piece in islice(pieces, _PIECES) if len(view := memoryview(piece))]:
        written = os.writev(number, batch)
        for view in batch:
            if written >= view.nbytes:
                written -= view.nbytes
                continue
            rest = view[written:]
            written = 0
            write_all(number, rest)


def map_value(path: str) -> memoryview:
    """The bytes of a value's file, mapped privately and writable; `serialize.loads` opens the value in place.

    Raises:
        FileNotFoundError, PermissionError: it isn't on this host, or isn't ours.
        DamagedFileError: it lies on a disk that changed or lost some of it.
    """
    number, path = open_for_reading(path)
    try:
        contents = Contents.of(number, path)
        contents.check()
        return contents.map()
    finally:
        os.close(number)
