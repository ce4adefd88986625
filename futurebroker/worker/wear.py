"""Executors that end after so many tasks, once they have grown so large, or because fewer are wanted (sans-IO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from futurebroker.worker.commands import Grow, Instruction, RecycleExecutor
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
        self._surplus: set[int] = set()
        self.limit(0, 0)

    def limit(self, max_tasks: int, max_bytes: int) -> None:
        """From now on."""
        self.max_tasks = max_tasks  #: that one runs at most; 0: any number
        self._max_bytes = max_bytes  #: of memory that one may have when it has ended a task; 0: any amount

    def __bool__(self) -> bool:
        return bool(self.max_tasks or self._max_bytes or self._surplus)

    def resize(self, executors: Mapping[int, ExecutorRecord], more: int) -> None:
        """Have so many executors more, or fewer, down to one; who has least to do goes first, when it has nothing."""
        if more > 0:
            self._emit(Grow(more))
            return
        staying = [executor for executor in executors.values() if not executor.leaving]
        staying.sort(key=lambda executor: len(executor.packets) + executor.away)
        surplus = staying[: min(-more, len(staying) - 1)]
        if not surplus:
            return
        self._emit(Grow(-len(surplus)))
        for executor in surplus:
            executor.leaving = True
            self._surplus.add(executor.number)
            self._end_surplus(executor)

    def _end_surplus(self, executor: ExecutorRecord) -> None:
        if executor.number in self._surplus and not executor.packets and not executor.away:
            self._surplus.discard(executor.number)
            self._emit(RecycleExecutor(executor.number))

    def reported(self, executor: ExecutorRecord, count: int) -> None:
        """An executor has ended so many tasks: it gets no more if that was enough, and ends with its last."""
        if executor.number in self._surplus:
            self._end_surplus(executor)
            return
        done = self._done[executor.number] = self._done.get(executor.number, 0) + count
        ahead = len(executor.packets)
        worn = bool(self.max_tasks) and done + ahead >= self.max_tasks
        grown = bool(self._max_bytes) and self._sizes.get(executor.number, 0) > self._max_bytes
        if worn or grown:
            executor.leaving = True
        if executor.leaving and not ahead and not executor.away and (grown or (worn and done >= self.max_tasks)):
            del self._done[executor.number]
            self._emit(RecycleExecutor(executor.number))
