"""What an agent does to the files in its folder of values; it never looks into them."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from futurebroker.types import Digest

#: bytes copied at a time
COPY_BYTES = 4 * 1024 * 1024


class ValueFiles:
    """The files of one folder. All of it is quick but for `copy`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_path(self) -> str:
        """A path nobody can guess and nothing has."""
        return str(self.folder / secrets.token_hex(16))

    def write_function(self, folder: str, digest: Digest, code: bytes) -> None:
        """Write a pickled function under its digest, whole or not at all."""
        place = self.folder / folder
        place.mkdir(mode=0o700, exist_ok=True)
        draft = place / f".{digest.hex()}"
        draft.write_bytes(code)
        draft.rename(place / digest.hex())

    def can_open(self, path: str) -> bool:
        """Whether another process's file is on this host and ours to read."""
        try:
            number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            return stat.S_ISREG(os.fstat(number).st_mode)
        finally:
            os.close(number)

    def take(self, path: str, target: str, move: bool) -> bool:
        """Make the file at ``path`` ours at ``target`` by its name; False where only `copy` can.

        Raises:
            OSError: it isn't there.
        """
        if not self.can_open(path):
            raise FileNotFoundError(f"{path} can't be opened on this host")
        try:
            if move:
                os.rename(path, target)
            else:
                os.link(path, target)
        except OSError:
            return False
        os.chmod(target, 0o600)
        return True

    def copy(self, path: str, target: str, move: bool, given_up: Callable[[], bool]) -> None:
        """As `take`, byte by byte: for a thread of its own.

        Args:
            given_up: asked now and then whether to stop.

        Raises:
            OSError: there is no room, or it was given up; nothing is left at ``target``.
        """
        try:
            with open(path, "rb", buffering=0) as source, open(target, "xb", buffering=0, opener=_private) as copy:
                while data := source.read(COPY_BYTES):
                    if given_up():
                        raise OSError("given up, because the worker closes")
                    view = memoryview(data)
                    while view:
                        view = view[copy.write(view) :]
        except OSError:
            self.unlink(target)
            raise
        if move:
            self.unlink(path)

    def write_part(self, path: str, offset: int, data: bytes, nbytes: int) -> None:
        """Write a piece of a file that will have ``nbytes`` in all."""
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            view = memoryview(data)[: max(0, nbytes - offset)]
            while view:
                written = os.pwrite(number, view, offset)
                offset += written
                view = view[written:]
        finally:
            os.close(number)

    def read_part(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file of ours."""
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(number, length, offset)
        finally:
            os.close(number)

    def sweep(self, folder: Path, kept: set[str]) -> None:
        """Delete what ``folder`` holds but for ``kept``: its writer is gone, and nobody will hear of the rest."""
        for path in folder.iterdir():
            if str(path) not in kept:
                path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()

    def unlink(self, path: str) -> None:
        """Delete a file that may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
