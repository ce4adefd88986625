"""Executors that are replaced after so many tasks, or once they have grown so large (sans-IO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from futurebroker.worker.commands import Instruction, RecycleExecutor
from futurebroker.worker.records import ExecutorRecord


class Wear:
    """Counts what executors have run; false when none is ever replaced for that.

    Args:
        sizes: memory by executor, as last measured.
    """

    def __init__(self, emit: Callable[[Instruction], None], sizes: Mapping[int, int]) -> None:
        self._emit = emit
        self._sizes = sizes
        self._done: dict[int, int] = {}
        self.limit(0, 0)

    def limit(self, max_tasks: int, max_bytes: int) -> None:
        """From now on."""
        self.max_tasks = max_tasks  #: that one runs at most; 0: any number
        self._max_bytes = max_bytes  #: of memory that one may have when it has ended a task; 0: any amount

    def __bool__(self) -> bool:
        return bool(self.max_tasks or self._max_bytes)

    def reported(self, executor: ExecutorRecord, count: int) -> None:
        """An executor has ended so many tasks: it gets no more if that was enough, and ends with its last."""
        done = self._done[executor.number] = self._done.get(executor.number, 0) + count
        ahead = len(executor.packets)
        worn = bool(self.max_tasks) and done + ahead >= self.max_tasks
        grown = bool(self._max_bytes) and self._sizes.get(executor.number, 0) > self._max_bytes
        if worn or grown:
            executor.leaving = True
        if executor.leaving and not ahead and (grown or (worn and done >= self.max_tasks)):
            del self._done[executor.number]
            self._emit(RecycleExecutor(executor.number))
