"""Sealed files: what comes out is what went in, or an error; nothing is left of a file that could not be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from futurebroker.data.files import map_value, write_sealed_value, write_value
from futurebroker.data.sealed import (
    BLOCK_BYTES,
    Contents,
    DamagedFileError,
    open_for_reading,
    seal_in_place,
    sealed_size,
    write_sealed,
)
from futurebroker.data.valuefiles import MappedError, ValueFiles

SIZES = (1, 100, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 9 * BLOCK_BYTES + 77)


def content(size: int) -> bytes:
    """Bytes of which no two blocks are alike."""
    return os.urandom(size)


@pytest.mark.parametrize("size", SIZES)
def test_a_sealed_file_gives_back_every_byte(tmp_path: Path, size: int) -> None:
    """Whole by a map, in part by reading, in pieces from anywhere."""
    data = content(size)
    path = str(tmp_path / "x.sealed")
    assert write_sealed(path, [data[: size // 3], data[size // 3 :]]) == size
    assert os.path.getsize(path) == sealed_size(size)
    assert bytes(map_value(path)) == data
    number, _ = open_for_reading(path)
    contents = Contents.of(number, path)
    for offset in (0, size // 2, size - 1, size, size + 5):
        assert contents.read(offset, 1000) == data[offset : offset + 1000]
        assert b"".join(bytes(piece) for piece in contents.pieces(offset)) == data[offset:]
    os.close(number)


@pytest.mark.parametrize("place", [0, 5, BLOCK_BYTES, 3 * BLOCK_BYTES - 1, -1, -10, -20, -30])
def test_a_bit_that_flips_anywhere_is_an_error_and_never_a_value(tmp_path: Path, place: int) -> None:
    """Also in the checksums and in the footer themselves."""
    path = write_sealed_value(tmp_path, [content(3 * BLOCK_BYTES)])
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedFileError):
        map_value(str(path))


@pytest.mark.parametrize("left", [1, 10, BLOCK_BYTES, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES - 1, 3 * BLOCK_BYTES])
def test_a_file_that_was_cut_is_an_error(tmp_path: Path, left: int) -> None:
    """A map of it would end the process that reads beyond its end."""
    path = write_sealed_value(tmp_path, [content(3 * BLOCK_BYTES)])
    os.truncate(path, left)
    with pytest.raises(DamagedFileError, match="damaged on the disk"):
        map_value(str(path))


def test_damage_elsewhere_does_not_spoil_a_part(tmp_path: Path) -> None:
    """Each block has a checksum of its own."""
    data = content(3 * BLOCK_BYTES)
    path = write_sealed_value(tmp_path, [data])
    damaged = bytearray(path.read_bytes())
    damaged[0] ^= 1
    path.write_bytes(damaged)
    files = ValueFiles(tmp_path)
    assert files.read_part(str(path), BLOCK_BYTES, 100) == data[BLOCK_BYTES : BLOCK_BYTES + 100]
    with pytest.raises(DamagedFileError):
        files.read_part(str(path), BLOCK_BYTES - 1, 2)


def test_what_came_in_parts_is_sealed_with_the_last(tmp_path: Path) -> None:
    """On disk there is no value without checksums."""
    files = ValueFiles(tmp_path / "memory", tmp_path)
    path = files.new_path(on_disk=True)
    files.write_part(path, 3, b"defg", 7)
    files.write_part(path, 0, b"abc", 7, last=True)
    assert bytes(map_value(path)) == b"abcdefg"
    plain = tmp_path / "plain.sealed"
    plain.write_bytes(b"abc")
    seal_in_place(str(plain))
    assert bytes(map_value(str(plain))) == b"abc"


def test_a_spilled_value_is_found_under_its_old_name(tmp_path: Path) -> None:
    """Others were told that name; and a map that was made before stays as it is."""
    files = ValueFiles(tmp_path / "memory", tmp_path / "disk")
    files.folder.mkdir()
    files.disk.mkdir()
    data = content(100_000)
    path = str(write_value(files.folder, [data]))
    target = files.new_path(on_disk=True)
    files.spill(path, None, target, lambda: False)
    files.relink(path, target)
    assert bytes(map_value(path)) == data
    assert files.can_open(path)
    assert os.path.getsize(path) == sealed_size(len(data))
    copy = files.new_path()
    assert not files.take(path, copy, move=False), "a link to a sealed file isn't a plain one"
    files.copy(path, copy, False, lambda: False)
    assert bytes(map_value(copy)) == data
    os.unlink(target)
    with pytest.raises(FileNotFoundError):
        map_value(path)


def test_what_is_mapped_is_not_spilled(tmp_path: Path) -> None:
    """Its memory would stay in use until the last map of it goes."""
    files = ValueFiles(tmp_path)
    path = str(write_value(tmp_path, [b"value"]))
    view = map_value(path)
    with pytest.raises(MappedError):
        files.spill(path, None, files.new_path(on_disk=True), lambda: False)
    view.release()
    del view
    files.spill(path, None, files.new_path(on_disk=True), lambda: False)


def test_a_link_to_anything_else_is_not_followed(tmp_path: Path) -> None:
    """A name comes from another process, and could lead anywhere."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "second.sealed").symlink_to(tmp_path / "secret")
    for target in ("secret", str(tmp_path / "secret"), str(tmp_path / "second.sealed"), "second.sealed"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(OSError):
            map_value(str(tmp_path / "link"))


def test_a_disk_that_fails_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file would fill the disk for good, since nobody knows of it."""
    with pytest.raises(OSError):
        write_sealed("/dev/full", [b"x"])
    with pytest.raises(OSError, match="given up"):
        write_sealed(str(tmp_path / "x.sealed"), [content(BLOCK_BYTES)] * 20, lambda: True)
    pieces = (piece for piece in [content(BLOCK_BYTES), None])
    with pytest.raises(TypeError):
        write_sealed(str(tmp_path / "x.sealed"), pieces)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("written", [0, 1])
def test_a_device_that_fails_is_an_error_and_leaves_nothing(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first write or at a later one; what isn't whole isn't there, so nothing wrong can be read."""
    calls = []
    write = os.write

    def fail(number: int, data: memoryview) -> int:
        calls.append(number)
        if len(calls) > written:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(number, data)

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_sealed(str(tmp_path / "x.sealed"), [content(BLOCK_BYTES)] * 12)
    assert len(calls) == written + 1
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_can_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of it would end the process instead, which is why all is read before it is mapped."""
    path = str(tmp_path / "x.sealed")
    write_sealed(path, [content(3 * BLOCK_BYTES)])

    def fail(number: int, buffers: object, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="Input/output error"):
        map_value(path)
