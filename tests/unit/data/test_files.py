"""Values as files: what is written is what is mapped, nobody else can read it, and folders of the dead are swept."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from futurebroker.data import folders
from futurebroker.data.files import map_value, write_value
from futurebroker.data.folders import StoreFolder
from futurebroker.data.sealed import LARGE_MAP
from futurebroker.data.valuefiles import ValueFiles
from futurebroker.protocol.serialize import dump_frames, loads


def test_what_is_mapped_is_what_was_written_and_its_arrays_are_writable_alone(tmp_path: Path) -> None:
    """A task that writes to its input must not change the stored result."""
    value: dict[str, Any] = {"a": np.arange(100_000), "b": [np.ones(3), b"x" * 10_000, "text"]}
    path = write_value(tmp_path, dump_frames(value))
    opened = loads(map_value(str(path)))
    assert (opened["a"] == value["a"]).all()
    assert opened["b"][1:] == value["b"][1:]
    opened["a"][:] = 0
    assert (loads(map_value(str(path)))["a"] == value["a"]).all()


def test_a_large_map_is_gone_soon_after_its_last_array_and_not_before(tmp_path: Path) -> None:
    """It is taken apart on a thread that nobody waits for; until then its file counts as mapped."""
    path = write_value(tmp_path, dump_frames(np.ones(LARGE_MAP // 8)))
    array = loads(map_value(str(path)))[5:]
    assert str(path) in Path("/proc/self/maps").read_text()
    assert array.sum() == LARGE_MAP // 8 - 5
    del array
    deadline = time.monotonic() + 10
    while str(path) in Path("/proc/self/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.001)  # another thread's unmapping gives no event


def test_many_buffers_of_all_sizes_survive(tmp_path: Path) -> None:
    """One call of the kernel takes a limited number of pieces; empty buffers are legal."""
    value = [np.full(i % 7, i) for i in range(3000)] + [np.zeros(0), np.zeros(50_000)]
    opened = loads(map_value(str(write_value(tmp_path, dump_frames(value)))))
    assert all((a == b).all() and a.shape == b.shape for a, b in zip(value, opened, strict=True))


def test_files_are_for_their_owner_only_and_a_map_outlives_its_file(tmp_path: Path) -> None:
    """Other users of the host share /dev/shm; and a freed result may still be in use."""
    path = write_value(tmp_path, [b"value"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    view = map_value(str(path))
    path.unlink()
    assert bytes(view) == b"value"


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_value_is_not_mapped(tmp_path: Path, make: object) -> None:
    """A path comes from another process: a link or a folder under it is no value."""
    assert callable(make)
    make(tmp_path / "x")
    with pytest.raises(OSError):
        map_value(str(tmp_path / "x"))


def test_a_full_disk_leaves_no_half_of_a_file() -> None:
    """A half-written value would be mapped as a whole one."""
    with pytest.raises(OSError):
        write_value(Path("/dev/full"), [b"x"])


def test_a_folder_of_a_dead_process_is_swept_and_one_of_a_living_is_not(tmp_path: Path) -> None:
    """tmpfs is memory: what the dead leave there is missing until somebody deletes it."""
    living = StoreFolder.make(str(tmp_path))
    dead = StoreFolder.make(str(tmp_path))
    assert stat.S_IMODE(dead.path.stat().st_mode) == 0o700
    (dead.path / "value").write_bytes(b"x")
    _, _, (_, lock, _), _ = dead._finalizer.detach() or pytest.fail("closed already")
    os.close(lock)
    another = StoreFolder.make(str(tmp_path))
    assert (living.path.exists(), dead.path.exists()) == (True, False)
    living.close()
    living.close()
    another.close()
    assert not living.path.exists()


def test_a_folder_goes_to_disk_where_shared_memory_is_small(monkeypatch: pytest.MonkeyPatch, own_world: Path) -> None:
    """Containers often have 64 MB of it, and a full one kills the program that maps it."""
    monkeypatch.setattr(folders, "SHARED_MEMORY_LEAST", 2**62)
    folder = StoreFolder.make()
    assert folder.path.is_relative_to(own_world)
    folder.close()


def test_a_file_is_taken_over_by_name_and_by_copy(tmp_path: Path) -> None:
    """A client's file becomes the worker's: moved within one file system, linked for a replica."""
    ours = ValueFiles(tmp_path)
    (tmp_path / "theirs").write_bytes(b"value")
    assert ours.take(str(tmp_path / "theirs"), str(tmp_path / "linked"), move=False)
    assert ours.take(str(tmp_path / "theirs"), str(tmp_path / "moved"), move=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked", "moved"]
    ours.copy(str(tmp_path / "moved"), str(tmp_path / "copied"), True, lambda: False)
    assert (tmp_path / "copied").read_bytes() == b"value"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "linked"]
    with pytest.raises(OSError, match="given up"):
        ours.copy(str(tmp_path / "copied"), str(tmp_path / "late"), True, lambda: True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "linked"]
    with pytest.raises(OSError):
        ours.take(str(tmp_path / "theirs"), str(tmp_path / "again"), move=True)


def test_parts_written_in_any_order_make_the_whole(tmp_path: Path) -> None:
    """Pieces of a transfer overtake each other; more than was announced is cut off."""
    ours = ValueFiles(tmp_path)
    path = ours.new_path()
    ours.write_part(path, 3, b"defgh", 6)
    ours.write_part(path, 0, b"abc", 6)
    assert Path(path).read_bytes() == b"abcdef"
    assert ours.read_part(path, 2, 3) == b"cde"
