"""Large files on disk, past the page cache: the same bytes whatever the disk can do, and errors that stay errors."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from futurebroker.data import diskwrites
from futurebroker.data.diskwrites import CHUNK_BYTES, DiskWriter, waited_for_a_core

DATA = os.urandom(1_000_003) * 13


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is taken to be fast, until a test says otherwise."""
    monkeypatch.setattr(diskwrites, "FAST", 0.0)
    monkeypatch.setattr(diskwrites, "_slow_until", 0.0)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a new file."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield number
    finally:
        os.close(number)


def is_direct(number: int) -> bool:
    """Whether it is written to past the cache."""
    return bool(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_DIRECT)


def written(path: Path, data: bytes, pieces: int = 1_500_000) -> bytes:
    """What is in a file that was written in pieces, with a trailer."""
    with opened(path) as number:
        writer = DiskWriter(number)
        for start in range(0, len(data), pieces):
            writer.write(memoryview(data)[start : start + pieces])
        writer.finish(b"trailer")
        assert not is_direct(number)
    return path.read_bytes()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17])
def test_every_byte_is_there(size: int, tmp_path: Path) -> None:
    """Whole chunks go by one way, and what is left by the other."""
    assert written(tmp_path / "x", DATA[:size]) == DATA[:size] + b"trailer"


def test_a_large_file_is_written_past_the_cache_where_that_can_be(tmp_path: Path) -> None:
    """Not a small one: its end would be most of it."""
    with opened(tmp_path / "x") as number:
        writer = DiskWriter(number)
        writer.write(memoryview(DATA)[: CHUNK_BYTES - 1])
        assert not is_direct(number)
        writer.write(memoryview(DATA)[CHUNK_BYTES - 1 : CHUNK_BYTES + 1])
        assert is_direct(number)
        writer.finish(b"")


@pytest.mark.parametrize("where", ["opening", "writing"])
def test_a_file_system_that_can_not_is_written_to_as_ever(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some refuse the flag, and some only what is written with it."""

    class Kernel:
        """`os` and `fcntl` of such a system."""

        def __getattr__(self, name: str) -> object:
            return getattr(fcntl, name, None) or getattr(os, name)

        def fcntl(self, number: int, command: int, flags: int = 0) -> int:
            if where == "opening" and command == fcntl.F_SETFL and flags & os.O_DIRECT:
                raise OSError(errno.EINVAL, "no such thing")
            return fcntl.fcntl(number, command, flags)

        def write(self, number: int, data: memoryview) -> int:
            if is_direct(number):
                raise OSError(errno.EINVAL, "not so")
            return os.write(number, data)

    monkeypatch.setattr(diskwrites, "fcntl", Kernel())
    monkeypatch.setattr(diskwrites, "os", Kernel())
    assert written(tmp_path / "x", DATA) == DATA + b"trailer"


def test_a_slow_disk_is_hidden_behind_the_cache_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for each chunk would make a worker as slow as its disk, where memory for a cache may be free."""
    monkeypatch.setattr(diskwrites, "FAST", float("inf"))
    assert written(tmp_path / "first", DATA) == DATA + b"trailer"
    assert time.monotonic() < diskwrites._slow_until < time.monotonic() + diskwrites.AGAIN + 1
    with opened(tmp_path / "second") as number:
        writer = DiskWriter(number)
        writer.write(memoryview(DATA))
        assert not is_direct(number)
        writer.finish(b"")
    assert (tmp_path / "second").read_bytes() == DATA
    monkeypatch.setattr(diskwrites, "_slow_until", time.monotonic() - 1)
    with opened(tmp_path / "third") as number:
        writer = DiskWriter(number)
        writer.write(memoryview(DATA))
        assert is_direct(number)
        writer.finish(b"")


def test_a_full_disk_is_an_error() -> None:
    """Which `/dev/full` has, whatever is written to it."""
    number = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = DiskWriter(number)
        with pytest.raises(OSError, match="No space"):
            writer.write(memoryview(DATA))
    finally:
        os.close(number)


_BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile True: pass"


def test_waiting_for_a_core_is_told_from_waiting_for_the_disk() -> None:
    """Or a disk is taken to be slow because others compute, and is written by the cache, which takes more of both."""
    cores = os.sched_getaffinity(0)
    core = min(cores)
    with subprocess.Popen([sys.executable, "-c", _BUSY, str(core)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            os.sched_setaffinity(0, {core})
            before, ended = waited_for_a_core(), time.thread_time() + 0.2
            while time.thread_time() < ended:
                pass
            assert waited_for_a_core() - before > 0.05
        finally:
            os.sched_setaffinity(0, cores)
            other.kill()
