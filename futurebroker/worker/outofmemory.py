"""Tells the kernel's kill of an executor from another: the kernel counts whom it has killed for want of memory."""

from __future__ import annotations

from pathlib import Path

from futurebroker.worker.limits import group_files

#: seconds after a count rose for which an end by SIGKILL is taken for what was counted
RECENT = 2.0
#: files of a group that have the count, by kind of hierarchy
_FILES = {"cgroup2": ("memory.events",), "cgroup": ("memory.oom_control",)}
_MACHINE = "proc/vmstat"
_COUNT = "oom_kill"


class KillCounts:
    """The counts of the groups that this process is in, and of the machine.

    Args:
        root: where to find ``proc`` and ``sys``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        # A group's own count says more than the machine's, which other programs have a part in.
        self._groups = list(group_files(root, _FILES))
        self._machine = root / _MACHINE
        self._counts = self._read()
        self._risen: dict[Path, float] = {}

    def look(self, now: float) -> None:
        """Note which counts rose; to be called now and then, so that what is found at an end is new."""
        counts = self._read()
        for file, count in counts.items():
            if count > self._counts.get(file, count):
                self._risen[file] = now
        self._counts = counts

    def explain(self, how: str, now: float) -> str:
        """How a process ended, and who ended it, if that was or may have been the kernel for want of memory."""
        self.look(now)
        risen = [file for file, at in self._risen.items() if now - at <= RECENT]
        if not risen or "SIGKILL" not in how:
            return how
        groups = [file for file in risen if file != self._machine]
        if groups:
            return f"{how} by the kernel, because {groups[0].parent} was out of memory"
        return f"{how}, perhaps by the kernel: it has just killed a process because the machine was out of memory"

    def _read(self) -> dict[Path, int]:
        counts = {}
        for file in (*self._groups, self._machine):
            try:
                lines = file.read_text("utf-8", "replace").splitlines()
            except OSError:
                continue
            for line in lines:
                name, _, count = line.partition(" ")
                if name == _COUNT and count.strip().isdecimal():
                    counts[file] = int(count)
        return counts
