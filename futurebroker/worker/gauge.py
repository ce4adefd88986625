"""How much memory the processes of a worker take for themselves, read many times a second.

What counts is anonymous memory: a file that many map would count once for each, and the store counts its own files.
What was swapped out counts as well, or a worker would take the more, the longer everybody waits for the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SWAPPED = b"VmSwap:"


def can_swap(proc: str = "/proc") -> bool:
    """Whether this machine has somewhere to swap to."""
    return any(line.startswith(b"SwapTotal:") and line.split()[1] != b"0" for line in _read(f"{proc}/meminfo"))


def own_bytes(pid: int, swaps: bool = False, proc: str = "/proc") -> int:
    """Bytes of a process that are no file's; 0 for one that is gone.

    Args:
        swaps: look for swapped ones too, which takes several times as long.
    """
    lines = _read(f"{proc}/{pid}/statm")
    if not lines:
        return 0
    fields = lines[0].split()
    held = max(0, int(fields[1]) - int(fields[2])) * _PAGE
    return held + (_swapped(f"{proc}/{pid}/status") if swaps else 0)


def _swapped(path: str) -> int:
    for line in _read(path):
        if line.startswith(_SWAPPED):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: str) -> list[bytes]:
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(number, 4096).splitlines()
    except OSError:
        return []
    finally:
        os.close(number)


def own_bytes_of(pids: Iterable[int], swaps: bool = False) -> int:
    """As `own_bytes`, of all of them together."""
    return sum(own_bytes(pid, swaps) for pid in pids)
