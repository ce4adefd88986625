"""What a worker's processes use: CPU, memory and what they started, measured once a heartbeat."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import psutil

#: heartbeats between two looks for processes that tasks have started; that look reads all of /proc
CHILDREN_EVERY = 5


class Monitor:
    """Metrics of a worker's tree of processes; see `sample`."""

    def __init__(self) -> None:
        self._own = psutil.Process(os.getpid())
        self._processes: dict[int, psutil.Process] = {}
        self._seen: dict[int, tuple[float, float]] = {}
        self._children: dict[int, list[int]] = {}
        self._count = 0

    def sample(self, executors: dict[int, str]) -> dict[str, Any]:
        """CPU in percent of one core since the sample before, memory in bytes.

        Args:
            executors: pid of each executor process -> its status.
        """
        if self._count % CHILDREN_EVERY == 0:
            self._look_for_children(set(executors))
        self._count += 1
        cpu, memory = self._measure(os.getpid())
        rows = []
        for pid, status in executors.items():
            if pid == os.getpid():
                continue
            own_cpu, own_memory = self._measure(pid)
            for child in self._children.get(pid, ()):
                child_cpu, child_memory = self._measure(child)
                own_cpu += child_cpu
                own_memory += child_memory
            rows.append({"pid": pid, "cpu": round(own_cpu, 1), "memory": own_memory, "status": status})
            cpu += own_cpu
            memory += own_memory
        alive = {os.getpid(), *executors, *(pid for pids in self._children.values() for pid in pids)}
        for pid in self._processes.keys() - alive:
            del self._processes[pid]
            self._seen.pop(pid, None)
        host = psutil.virtual_memory()
        return {
            "cpu": round(cpu, 1),
            "memory": memory,
            "executors": rows,
            "load": round(os.getloadavg()[0], 2),
            "host_memory": {"total": host.total, "available": host.available},
            "time": time.time(),
        }

    def children_of(self, pid: int) -> list[int]:
        """What an executor's tasks have started, as of the last look."""
        return self._children.get(pid, [])

    def _look_for_children(self, executors: set[int]) -> None:
        self._children = {}
        parents: dict[int, int] = {}
        with contextlib.suppress(psutil.Error):
            for child in self._own.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    parent = child.ppid()
                    above = parents[child.pid] = parent if parent in executors else parents.get(parent, 0)
                    if above and child.pid not in executors:
                        self._children.setdefault(above, []).append(child.pid)

    def _measure(self, pid: int) -> tuple[float, int]:
        """CPU percent since the last time, and resident bytes; zeros for what is gone."""
        try:
            process = self._processes.get(pid)
            if process is None:
                process = self._processes[pid] = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                memory = process.memory_info().rss
        except psutil.Error:
            return 0.0, 0
        now, used = time.monotonic(), times.user + times.system
        before = self._seen.get(pid)
        self._seen[pid] = now, used
        if before is None or now <= before[0]:
            return 0.0, memory
        return max(0.0, 100 * (used - before[1]) / (now - before[0])), memory
