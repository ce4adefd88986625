"""How much memory the processes of a worker take for themselves, read many times a second.

What counts is anonymous memory: a file that many map would count once for each, and the store counts its own files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

_PAGE = os.sysconf("SC_PAGE_SIZE")


def own_bytes(pid: int) -> int:
    """Bytes of a process that are no file's; 0 for one that is gone."""
    try:
        number = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fields = os.read(number, 256).split()
    except OSError:
        return 0
    finally:
        os.close(number)
    return max(0, int(fields[1]) - int(fields[2])) * _PAGE


def own_bytes_of(pids: Iterable[int]) -> int:
    """As `own_bytes`, of all of them together."""
    return sum(map(own_bytes, pids))
