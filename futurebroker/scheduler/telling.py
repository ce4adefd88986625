"""Tells clients that a task has ended, also those that want it without holding a future of it."""

from __future__ import annotations

from futurebroker.protocol.messages import DetachedEnded, Message
from futurebroker.scheduler import keeping
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import SchedulerState


def tell_end(state: SchedulerState, task: TaskRecord, message: Message) -> None:
    """The task has ended: tell every client that wants it; what was kept for nobody is kept no longer."""
    for client in task.each_client():
        if client is state.detached:
            undetach(state, task)
            keeping.keep_detached(state, task)
        elif client is state.kept:
            keeping.ended(state, task)
        elif client.client_id:
            state.send(client.client_id, message)
    if task.key in state.published.unstored:
        state.published.ended.append(task.key)


def undetach(state: SchedulerState, task: TaskRecord) -> None:
    """It isn't kept for nobody any more: tell those that had it kept."""
    task.discard_client(state.detached)
    for client in state.detachers.pop(task, ()):
        if state.clients.get(client.client_id) is client:
            state.send(client.client_id, DetachedEnded([task.key]))
