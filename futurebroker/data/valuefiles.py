"""What an agent does to the files of values in its folders; it never looks into them."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from futurebroker.data.names import SUFFIX, is_sealed
from futurebroker.data.reuse import FreedFiles, begin_file, others_use
from futurebroker.data.sealed import Contents, open_for_reading, seal_in_place, write_all, write_sealed
from futurebroker.types import Digest

#: bytes copied at a time
COPY_BYTES = 4 * 1024 * 1024


class MappedError(OSError):
    """Some process has the file mapped, so its memory would not be free if the file went."""


class ValueFiles:
    """The files of a folder in memory and one on disk, or of one on disk only.

    Quick are `new_path`, `can_open` and `write_function`; all else may wait for a disk, or for much memory to be freed.
    """

    def __init__(self, folder: Path, disk: Path | None = None, freed: FreedFiles | None = None) -> None:
        self.folder = folder
        self.disk = disk or folder
        self.freed = freed
        #: bytes of freed files that may be kept
        self._keep_most = 0

    def new_path(self, on_disk: bool = False) -> str:
        """A path nobody can guess and nothing has; on disk, of a sealed file."""
        name = secrets.token_hex(16)
        return str(self.disk / f"{name}{SUFFIX}" if on_disk else self.folder / name)

    def write_function(self, folder: str, digest: Digest, code: bytes) -> None:
        """Write a pickled function under its digest, whole or not at all; to disk when memory is full."""
        try:
            _write_function(self.folder / folder, digest, code)
        except OSError:
            if self.disk == self.folder:
                raise
            _write_function(self.disk / folder, digest, code)

    def can_open(self, path: str) -> bool:
        """Whether another process's file is on this host and ours to read."""
        try:
            number, _ = open_for_reading(path)
        except OSError:
            return False
        os.close(number)
        return True

    def take(self, path: str, target: str, move: bool) -> bool:
        """Make the file at ``path`` ours at ``target`` by its name; False where only `copy` can.

        Raises:
            OSError: it isn't there.
        """
        number, real = open_for_reading(path)
        os.close(number)
        if real != path or is_sealed(real) != is_sealed(target):
            return False
        try:
            if move:
                os.rename(path, target)
            else:
                os.link(path, target)
        except OSError:
            return False
        if not move:
            self._hold(path, target)
        os.chmod(target, 0o600)
        return True

    def _hold(self, path: str, target: str) -> None:
        """Let go of ``target`` if ``path`` is another file by now: it was freed, and may be written again.

        Raises:
            FileNotFoundError: it was.
        """
        try:
            if os.path.samestat(os.lstat(path), os.lstat(target)):
                return
        except FileNotFoundError:
            pass
        os.unlink(target)
        raise FileNotFoundError(errno.ENOENT, "it was freed", path)

    def copy(self, path: str, target: str, move: bool, given_up: Callable[[], bool]) -> None:
        """As `take`, byte by byte.

        Args:
            given_up: asked now and then whether to stop.

        Raises:
            OSError: there is no room, the source is damaged, or it was given up; nothing is left at ``target``.
        """
        number, real = open_for_reading(path)
        try:
            pieces = Contents.of(number, real).pieces()
            if is_sealed(target):
                write_sealed(target, pieces, given_up)
            else:
                _write_plain(target, pieces, given_up)
        finally:
            os.close(number)
        if move:
            self.unlink(path)

    def spill(self, path: str, data: bytes | None, target: str, given_up: Callable[[], bool]) -> None:
        """Copy a value, a file in memory or bytes, to a sealed file.

        Raises:
            MappedError: a process has the file mapped.
            OSError: the disk doesn't take it, or it was given up; nothing is left at ``target``.
        """
        if data is not None:
            write_sealed(target, [data], given_up)
            return
        number, real = open_for_reading(path)
        try:
            if others_use(number):
                raise MappedError(f"{path} is mapped")
            write_sealed(target, Contents.of(number, real).pieces(), given_up)
        finally:
            os.close(number)

    def relink(self, path: str, target: str) -> None:
        """Put a link to the sealed file ``target`` in the place of the file ``path``; nobody finds neither."""
        draft = f"{path}.{secrets.token_hex(4)}"
        os.symlink(target, draft)
        os.rename(draft, path)

    def write_part(self, path: str, offset: int, data: bytes, nbytes: int, last: bool = False) -> None:
        """Write a piece of a file that will have ``nbytes`` in all; with the last one on disk come its checksums."""
        try:
            number = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            number = begin_file(path, nbytes, self.freed)
        try:
            view = memoryview(data)[: max(0, nbytes - offset)]
            while view:
                written = os.pwrite(number, view, offset)
                offset += written
                view = view[written:]
        finally:
            os.close(number)
        if last and is_sealed(path):
            seal_in_place(path)

    def read_part(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a value of ours.

        Raises:
            OSError: the disk can't read them, or has others than were written.
        """
        number, real = open_for_reading(path)
        try:
            return Contents.of(number, real).read(offset, length)
        finally:
            os.close(number)

    def sweep(self, name: str, kept: set[str]) -> None:
        """Delete what our folders ``name`` hold but for ``kept``: nobody will hear of the rest."""
        for folder in {self.folder / name, self.disk / name}:
            for path in folder.iterdir() if folder.is_dir() else ():
                if str(path) not in kept:
                    path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()

    def discard(self, path: str) -> None:
        """Let go of a file of ours that nobody needs any more: it is kept for another value, or deleted."""
        if self.freed is None or not self.freed.keep(path, self._keep_most):
            self.unlink(path)

    def keep_freed(self, most: int) -> None:
        """Keep no more than so many bytes of freed files, now and later."""
        self._keep_most = most
        if self.freed is not None:
            self.freed.shed(most)

    def unlink(self, path: str) -> None:
        """Delete a file that may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _write_function(place: Path, digest: Digest, code: bytes) -> None:
    place.mkdir(mode=0o700, exist_ok=True)
    draft = place / f".{digest.hex()}"
    try:
        draft.write_bytes(code)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    draft.rename(place / digest.hex())


def _write_plain(target: str, pieces: Iterator[memoryview], given_up: Callable[[], bool]) -> None:
    number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for piece in pieces:
            if given_up():
                raise OSError("given up, because the worker closes")
            write_all(number, piece)
    except BaseException:
        os.unlink(target)
        raise
    finally:
        os.close(number)
