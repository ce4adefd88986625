"""The scheduler's own process: what it is, and how it does (late turns of its loop, CPU, memory, at each sweep)."""

from __future__ import annotations

import os
import platform
import resource
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

from futurebroker import __version__
from futurebroker.protocol.messages import PROTOCOL
from futurebroker.versions import versions

#: looks that the figures cover
LOOKS = 40
_PAGE = resource.getpagesize()


def introduce() -> dict[str, Any]:
    """What this process tells of itself to who asks."""
    return {
        "version": __version__,
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": time.time(),
        "packages": versions(),
    }


class Health:
    """Figures of the last ten seconds or so; see `look`.

    Args:
        every: seconds between two looks, if the loop comes round in time.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._due: float | None = None
        self._late: deque[float] = deque(maxlen=LOOKS)
        self._used: deque[tuple[float, float]] = deque(maxlen=LOOKS)

    def look(self, now: float) -> dict[str, Any]:
        """What to tell of the process: ``lag`` in seconds, ``cpu`` in percent of a core, ``memory`` in bytes."""
        if self._due is not None:
            self._late.append(max(0.0, now - self._due))
        self._due = now + self._every
        self._used.append((now, time.process_time()))
        (first, before), (last, after) = self._used[0], self._used[-1]
        return {
            "lag": max(self._late, default=0.0),
            "cpu": round(100 * (after - before) / (last - first), 1) if last > first else 0.0,
            "memory": _resident(),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
