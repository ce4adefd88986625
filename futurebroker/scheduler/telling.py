"""Tells clients that a task has ended, also those that want it without holding a future of it."""

from __future__ import annotations

from futurebroker.protocol.messages import DetachedEnded, KeyFinished, Message
from futurebroker.scheduler import keeping
from futurebroker.scheduler.published import DURABLE
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import MEMORY, SchedulerState


def must_be_stored(state: SchedulerState, task: TaskRecord) -> bool:
    """Whether a durable result could still be lost with workers, and there is a place where it could not."""
    if task.value is not None or task.state is not MEMORY or not task.pool.options.durable:
        return False
    archive = state.archives.get(DURABLE)
    return archive is not None and archive not in task.holder_paths()


def tell_later(state: SchedulerState, task: TaskRecord) -> None:
    """The result has to be stored before any client is told of it."""
    state.untold[task] = None
    state.published.ended.append(task.key)
    tell_end(state, task, None)


def tell_stored(state: SchedulerState, task: TaskRecord) -> None:
    """The result of a durable task is stored: tell every client that wants it."""
    del state.untold[task]
    for client in task.each_client():
        if client.client_id:
            state.send(client.client_id, KeyFinished(task.key, None, task.held()))


def tell_end(state: SchedulerState, task: TaskRecord, message: Message | None) -> None:
    """The task has ended: tell every client that wants it; what was kept for nobody is kept no longer.

    Args:
        message: None if clients are told later.
    """
    for client in task.each_client():
        if client is state.detached:
            undetach(state, task)
            keeping.keep_detached(state, task)
        elif client is state.kept:
            keeping.ended(state, task)
        elif client.client_id and message is not None:
            state.send(client.client_id, message)
    if task.key in state.published.unstored or task.key in state.published.unready:
        state.published.ended.append(task.key)


def undetach(state: SchedulerState, task: TaskRecord) -> None:
    """It isn't kept for nobody any more: tell those that had it kept."""
    task.discard_client(state.detached)
    for client in state.detachers.pop(task, ()):
        if state.clients.get(client.client_id) is client:
            state.send(client.client_id, DetachedEnded([task.key]))
