"""Tasks that wait for others, or have seceded: they run, and take no slot of their executor's (sans-IO)."""

from __future__ import annotations

from futurebroker.protocol.messages import ExecutorDied, GaveBack, Message, TaskAway, TaskReturned
from futurebroker.worker.commands import ExecutorEnded, TaskBack, TaskLeft
from futurebroker.worker.dispatch import Dispatcher
from futurebroker.worker.records import TaskRecord


def task_left(dispatcher: Dispatcher, event: TaskLeft) -> list[Message]:
    """A task gives up its slot; what to tell the scheduler."""
    task = dispatcher.sent.get(event.number)
    if task is None or task.packet is None or task.packet.executor.number != event.executor:
        return []
    dispatcher.set_apart(task)
    return [] if task.silent or task.dropped else [TaskAway(task.key, task.attempt)]


def task_back(dispatcher: Dispatcher, event: TaskBack, now: float) -> list[Message]:
    """A task takes a slot again; what to tell the scheduler."""
    task = dispatcher.sent.get(event.number)
    if task is None or event.number not in dispatcher.away:
        return []
    dispatcher.set_back(task, now)
    return [] if task.silent or task.dropped else [TaskReturned(task.key, task.attempt)]


def executor_ended(dispatcher: Dispatcher, event: ExecutorEnded) -> list[tuple[TaskRecord, Message | None]]:
    """The tasks that were away in an executor that has ended, each with what to tell the scheduler of it.

    One that had seceded ran, and may be to blame; one that waited for others is not.
    """
    lost: list[tuple[TaskRecord, Message | None]] = []
    for number in [number for number, executor in dispatcher.away.items() if executor.number == event.executor]:
        task = dispatcher.take_back(number)
        if task is None:
            continue
        if task.silent or task.dropped:
            lost.append((task, None))
        elif number in event.running:
            lost.append((task, ExecutorDied(task.key, task.attempt, event.how)))
        else:
            lost.append((task, GaveBack(task.key, task.attempt)))
    return lost
