"""Time limits that end executors, and tasks that asked to be run again (sans-IO).

A task with a hard limit is sent alone and only to a free thread, so it begins when it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush

from futurebroker.protocol.messages import Continue
from futurebroker.worker.commands import Instruction, KillExecutor
from futurebroker.worker.packets import Again, Task
from futurebroker.worker.records import SENT, TaskRecord

#: how an executor ended that ran a task longer than it may
TIME_LIMIT = "TimeLimitExceeded"


class Bounds:
    """The tasks that run and must end in time; false when there are none."""

    def __init__(self, emit: Callable[[Instruction], None]) -> None:
        self._emit = emit
        self._heap: list[tuple[float, int]] = []

    def __bool__(self) -> bool:
        return bool(self._heap)

    def begin(self, task: Task, now: float) -> float | None:
        """The task begins; when to look whether it has ended, if it has a limit."""
        if task.terms is None or not task.terms.hard:
            return None
        at = now + task.terms.hard
        heappush(self._heap, (at, task.number))
        return at

    def tick(self, sent: Mapping[int, TaskRecord], now: float) -> float | None:
        """End the executors of tasks that ran too long; when to look again, if there are more."""
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][1] not in sent):
            task = sent.get(heappop(heap)[1])
            if task is not None:
                task.overdue = True
                end(task, self._emit)
        return heap[0][0] if heap else None


def end(task: TaskRecord, emit: Callable[[Instruction], None]) -> None:
    """End the executor of a task, if the task may have begun."""
    if task.state is SENT and task.packet is not None:
        task.packet.executor.condemned = True
        emit(KillExecutor(task.packet.executor.number, "SIGKILL, at the end of its time"))


def how(task: TaskRecord, ended: str) -> str:
    """What is reported of a task whose executor ended."""
    return f"{TIME_LIMIT} {task.terms.hard if task.terms is not None else 0.0:g}" if task.overdue else ended


def continued(task: TaskRecord, duration: int, again: Again) -> Continue:
    """What is reported of a task that asked to be run again."""
    return Continue(
        task.key,
        task.attempt,
        duration,
        again.delay,
        again.retries,
        again.args,
        again.inputs,
        again.failure,
        again.options,
        again.request,
    )
