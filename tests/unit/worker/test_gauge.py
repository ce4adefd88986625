"""What a process takes for itself, as the kernel tells it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from futurebroker.worker.gauge import can_swap, own_bytes, own_bytes_of

PAGE = os.sysconf("SC_PAGE_SIZE")
STATUS = "Name:\tpython\nVmRSS:\t  400 kB\nRssAnon:\t  300 kB\nVmSwap:\t     {} kB\nThreads:\t1\n"


def process(proc: Path, pid: int, resident: int, shared: int, swapped: int) -> None:
    """A process with so many pages, and so many KiB swapped out."""
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "statm").write_text(f"5000 {resident} {shared} 1 0 900 0\n")
    (folder / "status").write_text(STATUS.format(swapped))


def test_what_was_swapped_out_counts_and_files_that_are_mapped_do_not(tmp_path: Path) -> None:
    """A worker that counted only what is resident would start more, the more of it the kernel moves to the disk."""
    process(tmp_path, 7, resident=100, shared=30, swapped=2048)
    assert own_bytes(7, proc=str(tmp_path)) == 70 * PAGE
    assert own_bytes(7, swaps=True, proc=str(tmp_path)) == 70 * PAGE + 2 * 1024 * 1024


def test_a_process_that_is_gone_takes_nothing(tmp_path: Path) -> None:
    """It may end between two looks."""
    assert own_bytes(7, swaps=True, proc=str(tmp_path)) == 0
    process(tmp_path, 8, resident=10, shared=0, swapped=0)
    (tmp_path / "8" / "status").unlink()
    assert own_bytes(8, swaps=True, proc=str(tmp_path)) == 10 * PAGE


@pytest.mark.parametrize(
    ("meminfo", "expected"),
    [("MemTotal: 10 kB\nSwapTotal: 0 kB\n", False), ("MemTotal: 10 kB\nSwapTotal: 4096 kB\n", True), (None, False)],
)
def test_swap_is_looked_for_only_where_there_is_some(tmp_path: Path, meminfo: str | None, expected: bool) -> None:
    """It costs more than all else that is looked at a hundred times a second."""
    if meminfo is not None:
        (tmp_path / "meminfo").write_text(meminfo)
    assert can_swap(str(tmp_path)) is expected


def test_this_process_takes_what_it_fills() -> None:
    """By the kernel's own files."""
    before = own_bytes_of([os.getpid()], swaps=True)
    filled = bytearray(b"x") * (64 * 1024 * 1024)
    assert own_bytes_of([os.getpid()], swaps=True) - before > 60 * 1024 * 1024
    del filled
