"""Whether work stalls for want of memory, as the kernel measures it: then others took what our own limit leaves us."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from futurebroker.worker.limits import group_files

#: seconds between two looks; the kernel renews its means every two
EVERY = 1.0
_FILES = {"cgroup2": ("memory.pressure",)}
_MACHINE = "proc/pressure/memory"


class Pressure:
    """The stalls of the innermost group around this process that tells of them, else the machine's.

    Args:
        root: where to find ``proc`` and ``sys``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        files: Iterator[Path] = chain(group_files(root, _FILES), [root / _MACHINE])
        self._file = next((file for file in files if _stalled(file) is not None), None)
        self._looked = float("-inf")
        self._part = 0.0

    def look(self, now: float) -> float:
        """The part of the last ten seconds in which nothing could go on because all waited for memory."""
        if self._file is not None and now - self._looked >= EVERY:
            self._looked = now
            self._part = _stalled(self._file) or 0.0
        return self._part


def _stalled(file: Path) -> float | None:
    """What a file says; None if there is none, or the kernel doesn't measure."""
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        kind, _, rest = line.partition(" ")
        name, _, percent = rest.partition(" ")[0].partition("=")
        if kind == "full" and name == "avg10":
            try:
                return float(percent) / 100
            except ValueError:
                return None
    return None
