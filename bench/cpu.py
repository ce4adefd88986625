"""CPU seconds of a whole family of processes, those that have ended included.

A process's own times are in the listing as long as it lives; once its parent has waited for it they move to the
parent's "children" times. So the sum over the living of own and children's times counts everything once. A daemon that
detaches itself (Ray and Celery start such) would escape to init and leave the sum: `adopt_orphans` makes this process
its next parent instead.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

import psutil

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Make descendants whose parent dies children of this process. Linux only; False where it has no effect."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


@dataclass(frozen=True)
class Usage:
    """What was used up to one moment, or between two."""

    seconds: float  #: wall clock
    cpu_seconds: float  #: user and system time of this process and all its descendants
    machine_cpu_seconds: float  #: user and system time of everything on the machine: shows when it was not idle

    def since(self, start: Usage) -> Usage:
        return Usage(
            self.seconds - start.seconds,
            self.cpu_seconds - start.cpu_seconds,
            self.machine_cpu_seconds - start.machine_cpu_seconds,
        )


def family() -> list[psutil.Process]:
    """This process and all its living descendants."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # waited for since the listing; the next snapshot has it under its parent
        total += times.user + times.system + times.children_user + times.children_system
    return total


def snapshot() -> Usage:
    """Usage up to now. Resolution is the kernel's clock tick, usually 10 ms of CPU."""
    machine = psutil.cpu_times()
    cpu = cpu_seconds(family())
    return Usage(perf_counter(), cpu, machine.user + machine.system + machine.nice)
