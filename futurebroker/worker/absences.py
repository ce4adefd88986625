"""Tasks that wait for others, or have seceded: they run, and take no slot of their executor's (sans-IO)."""

from __future__ import annotations

from futurebroker.protocol.messages import ExecutorDied, Message, TaskAway, TaskReturned
from futurebroker.worker.bounds import how
from futurebroker.worker.commands import ExecutorEnded, TaskBack, TaskLeft
from futurebroker.worker.dispatch import Dispatcher
from futurebroker.worker.records import ExecutorRecord, TaskRecord


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


def split(
    dispatcher: Dispatcher, executor: ExecutorRecord, event: ExecutorEnded
) -> tuple[list[TaskRecord], list[TaskRecord]]:
    """The tasks of an executor that has ended leave their packets: those that had begun, and the others."""
    begun: list[TaskRecord] = []
    rest: list[TaskRecord] = []
    away = [number for number, where in dispatcher.away.items() if where is executor]
    for number in [number for packet in executor.packets.values() for number in packet.numbers] + away:
        task = dispatcher.take_back(number)
        if task is not None:
            (begun if task.begun or number in event.running else rest).append(task)
    return begun, rest


def reports(begun: list[TaskRecord], executor: ExecutorRecord, event: ExecutorEnded, is_calling: bool) -> list[Message]:
    """What to tell the scheduler of tasks that had begun in an executor that has ended.

    To blame are those that ran, among them who had seceded. Those that waited are suspected only where nobody else can
    have done it: else one that ends its executor while it waits, by a thread of its own or by all that it allocated,
    would be run again for ever.
    """
    told = [task for task in begun if not task.silent and not task.dropped]
    culprits: set[TaskRecord] = set()
    if executor.condemned:
        culprits.update(task for task in told if task.overdue)
    elif not event.expected:
        culprits.update(task for task in told if task.number in event.running)
        if not culprits and not is_calling:
            culprits.update(told)
    return [ExecutorDied(task.key, task.attempt, how(task, event.how), task not in culprits) for task in told]
