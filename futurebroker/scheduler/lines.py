"""Tasks in the order in which they ended, out of which any can be taken (sans-IO)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from futurebroker.scheduler.records import TaskRecord

#: tasks that stand together; what a removal looks through is a dict, and the list of these
CHUNK = 1024


class Line:
    """Tasks with the times at which they ended, oldest first.

    Cut in chunks, so that a task that is taken out leaves no hole behind that anybody has to step over.
    """

    __slots__ = ("_chunks", "_starts", "watched")

    def __init__(self) -> None:
        #: whether somebody looks when the oldest has had its time
        self.watched = False
        self._chunks: list[dict[TaskRecord, float]] = []
        self._starts: list[float] = []

    def append(self, at: float, task: TaskRecord) -> None:
        """The task ended at ``at``, no earlier than all others."""
        chunks = self._chunks
        if not chunks or len(chunks[-1]) >= CHUNK:
            chunks.append({})
            self._starts.append(at)
        last = chunks[-1]
        last.pop(task, None)
        last[task] = at

    def discard(self, at: float, task: TaskRecord) -> None:
        """Take out the task that ended at ``at``, if it is there."""
        place = bisect_right(self._starts, at) - 1
        while place >= 0:
            chunk = self._chunks[place]
            if chunk.get(task) == at:
                del chunk[task]
                if not chunk:
                    del self._chunks[place], self._starts[place]
                return
            if self._starts[place] < at:
                return
            place -= 1

    def first(self) -> tuple[float, TaskRecord]:
        """The oldest."""
        task, at = next(iter(self._chunks[0].items()))
        return at, task

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __iter__(self) -> Iterator[tuple[float, TaskRecord]]:
        for chunk in self._chunks:
            for task, at in chunk.items():
                yield at, task
