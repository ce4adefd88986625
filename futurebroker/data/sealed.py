"""Files with checksums: how values lie on disk, where bits flip, files are cut and reading can fail.

A sealed file is the value's bytes, a CRC-32 for each block of them, and a footer that guards both. A value that was
moved to disk leaves a symbolic link of its old name, so who was told that name still finds it. Every reader checks what
it uses: a block that doesn't fit is an error, never a value.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from futurebroker.data.diskwrites import DiskWriter
from futurebroker.data.names import is_sealed

#: as in `serialize`, which this can't import: what opens pickles has no business in an agent
Buffer = bytes | bytearray | memoryview
#: bytes that one checksum guards
BLOCK_BYTES = 1024 * 1024
#: bytes from which a map is taken apart on a thread of its own
LARGE_MAP = 16 * 1024 * 1024
#: bytes that are read, and written, at a time: what is copied next is still in the processor's cache
_STEP = BLOCK_BYTES

_FOOTER = struct.Struct("<8sQII")
_MAGIC = b"fbseal1\0"
_CHECKSUM = struct.Struct("<I")


class DamagedFileError(OSError):
    """A sealed file isn't what was written: cut, or changed on the disk. Its value has to come from elsewhere."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(errno.EIO, f"damaged on the disk: {what}", path)


class Seal:
    """The checksums of bytes that are written one after another; `trailer` follows them in the file."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._table = bytearray()
        self._sum = 0

    def update(self, data: Buffer) -> None:
        """Take in the next bytes."""
        view = memoryview(data).cast("B")
        while view:
            piece = view[: BLOCK_BYTES - self.nbytes % BLOCK_BYTES]
            self._sum = zlib.crc32(piece, self._sum)
            self.nbytes += len(piece)
            view = view[len(piece) :]
            if self.nbytes % BLOCK_BYTES == 0:
                self._close_block()

    def _close_block(self) -> None:
        self._table += _CHECKSUM.pack(self._sum)
        self._sum = 0

    def trailer(self) -> bytes:
        """What stands behind the value; nothing may be added to it afterwards."""
        if self.nbytes % BLOCK_BYTES:
            self._close_block()
        table = bytes(self._table)
        guard = zlib.crc32(_FOOTER.pack(_MAGIC, self.nbytes, BLOCK_BYTES, 0), zlib.crc32(table))
        return table + _FOOTER.pack(_MAGIC, self.nbytes, BLOCK_BYTES, guard)


def sealed_size(nbytes: int) -> int:
    """Bytes of the file of a value of ``nbytes``."""
    return nbytes + -(-nbytes // BLOCK_BYTES) * _CHECKSUM.size + _FOOTER.size


def open_for_reading(path: str) -> tuple[int, str]:
    """A descriptor of the regular file behind a value's name, and that file's own name.

    A name may be given by another process: a link is followed only once, and only to a sealed file of our own user.

    Raises:
        FileNotFoundError, PermissionError, OSError: it isn't there, isn't ours, or is no value.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        number = os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        path = os.readlink(path)
        if not os.path.isabs(path) or not is_sealed(path):
            raise PermissionError(errno.EPERM, "holds no value", path) from None
        number = os.open(path, flags)
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            raise PermissionError(errno.EPERM, "holds no value", path)
        if is_sealed(path) or os.path.samestat(status, os.lstat(path)):
            return number, path
    except BaseException:
        os.close(number)
        raise
    # It was freed or moved to disk while we opened it: what is there now may be written again, for another value.
    os.close(number)
    return open_for_reading(path)


@dataclass(frozen=True, slots=True)
class Contents:
    """An open value file: its bytes may be read with `read`, which checks those of a sealed one."""

    number: int
    path: str
    nbytes: int
    table: memoryview | None  #: checksums of its blocks; None for a plain file

    @classmethod
    def of(cls, number: int, path: str) -> Contents:
        """The contents behind an open descriptor.

        Raises:
            DamagedFileError: the footer of a sealed file is missing or wrong.
        """
        size = os.fstat(number).st_size
        if not is_sealed(path):
            return cls(number, path, size, None)
        footer = os.pread(number, _FOOTER.size, max(0, size - _FOOTER.size))
        if len(footer) < _FOOTER.size:
            raise DamagedFileError(path, f"{size:,} bytes are left")
        magic, nbytes, block, guard = _FOOTER.unpack(footer)
        if magic != _MAGIC or block != BLOCK_BYTES or sealed_size(nbytes) != size:
            raise DamagedFileError(path, "its end is missing")
        table = os.pread(number, size - _FOOTER.size - nbytes, nbytes)
        if zlib.crc32(_FOOTER.pack(magic, nbytes, block, 0), zlib.crc32(table)) != guard:
            raise DamagedFileError(path, "its checksums changed")
        return cls(number, path, nbytes, memoryview(table).cast("I"))

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the value, fewer at its end.

        Raises:
            DamagedFileError: a block that holds some of them doesn't fit its checksum.
            OSError: the disk can't read them.
        """
        end = min(offset + length, self.nbytes)
        if offset >= end:
            return b""
        if self.table is None:
            return os.pread(self.number, end - offset, offset)
        first = offset - offset % BLOCK_BYTES
        last = min(self.nbytes, end + -end % BLOCK_BYTES)
        data = b"".join(bytes(piece) for piece in self._checked(first, last))
        return data[offset - first : end - first]

    def pieces(self, offset: int = 0) -> Iterator[memoryview]:
        """The value from ``offset`` on; each piece is overwritten by the next. Raises as `read`."""
        skip = offset % BLOCK_BYTES
        for piece in self._checked(offset - skip, self.nbytes):
            yield piece[skip:]
            skip = 0

    def check(self) -> None:
        """Read all of a sealed file; raises as `read`. Reading, unlike a map, tells of a broken disk by an error."""
        if self.table is not None:
            for _ in self._checked(0, self.nbytes):
                pass

    def _checked(self, start: int, end: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(max(1, end - start), _STEP)))
        while start < end:
            piece = buffer[: min(len(buffer), end - start)]
            filled = 0
            while filled < len(piece):
                got = os.preadv(self.number, [piece[filled:]], start + filled)
                if not got:
                    raise DamagedFileError(self.path, f"it ends at byte {start + filled:,} of {self.nbytes:,}")
                filled += got
            if self.table is not None:
                for at in range(0, len(piece), BLOCK_BYTES):
                    if zlib.crc32(piece[at : at + BLOCK_BYTES]) != self.table[(start + at) // BLOCK_BYTES]:
                        raise DamagedFileError(self.path, f"what lies at byte {start + at:,} changed")
            yield piece
            start += len(piece)

    def map(self) -> memoryview:
        """The value mapped privately and writable; of a sealed file call `check` first."""
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        kind = _LargeMap if self.nbytes >= LARGE_MAP else mmap.mmap
        return memoryview(kind(self.number, self.nbytes, flags=mmap.MAP_PRIVATE, prot=prot))


class _LargeMap(mmap.mmap):
    """A map whose end nobody waits for: the kernel takes a tenth of a second to take a gigabyte apart."""

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the program ends, or has no room for a thread: then it goes here
            # No `threading.Thread`: this may come at any point of any code, and that takes locks.
            _thread.start_new_thread(self.close, ())


def write_sealed(
    path: str, pieces: Iterable[Buffer], given_up: Callable[[], bool] = lambda: False, *, spare: bool = True
) -> int:
    """Write a sealed file, mode 0600, whole or not at all; the bytes of its value.

    Args:
        given_up: asked now and then whether to stop.
        spare: leave some of the disk to others.

    Raises:
        OSError: there is no room, the disk can't be written to, or it was given up; nothing is left behind.
    """
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    seal, writer = Seal(), DiskWriter(number)
    looked = 0
    try:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            for start in range(0, len(view), _STEP):
                if given_up():
                    raise OSError("given up, because the worker closes")
                if spare and seal.nbytes >= looked:
                    _leave_room(number)
                    looked = seal.nbytes + _LOOK_EVERY
                part = view[start : start + _STEP]
                seal.update(part)
                writer.write(part)
        writer.finish(seal.trailer())
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(number)
    return seal.nbytes


def seal_in_place(path: str) -> None:
    """Put checksums behind a plain file that has come whole, under a name of sealed files."""
    number = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        seal = Seal()
        for piece in Contents(number, path, os.fstat(number).st_size, None).pieces():
            seal.update(piece)
        os.lseek(number, 0, os.SEEK_END)
        write_all(number, memoryview(seal.trailer()))
    finally:
        os.close(number)


def write_all(number: int, view: memoryview) -> None:
    """Write all of it where the descriptor stands."""
    while view:
        view = view[os.write(number, view) :]


#: bytes written between two looks at how full the disk is
_LOOK_EVERY = 64 * BLOCK_BYTES
#: bytes of a disk that are left to others, and the part of it that is, where that is less
_SPARE_BYTES = 256 * 1024 * 1024
_SPARE_PART = 0.05


def _leave_room(number: int) -> None:
    status = os.fstatvfs(number)
    spare = min(_SPARE_BYTES, int(status.f_blocks * status.f_frsize * _SPARE_PART))
    if status.f_bavail * status.f_frsize < spare:
        raise OSError(errno.ENOSPC, "the disk is as full as it may get")
