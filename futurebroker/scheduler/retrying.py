"""Running failed tasks again, because somebody says so."""

from __future__ import annotations

from futurebroker.protocol.messages import KeyCancelled, KeyErred, KeyLost, Retry
from futurebroker.scheduler import holding, transitions
from futurebroker.scheduler.records import ClientRecord, TaskRecord
from futurebroker.scheduler.state import ERRED, SchedulerState
from futurebroker.types import Key


def retry(state: SchedulerState, client: ClientRecord, message: Retry) -> None:
    """Run failed tasks again: the one that failed first, and everything that failed because of it."""
    for key in message.keys:
        if key not in state.tasks:
            reason = "its task is not known here, perhaps because the scheduler was restarted; submit it again"
            _refuse(state, client, key, reason)
    roots: dict[TaskRecord, None] = {}
    meant: dict[TaskRecord, None] = {}
    looking = [task for key in message.keys if (task := state.tasks.get(key)) is not None]
    while looking:
        task = looking.pop()
        if task.state is ERRED and task not in meant:
            meant[task] = None
            culprits = [dependency for dependency in task.dependencies if dependency.state is ERRED]
            looking.extend(culprits)
            if not culprits:
                roots[task] = None
    again: list[TaskRecord] = []
    spreading = [task for task in roots if task.function is not None]
    while spreading:
        task = spreading.pop()
        if task.state is ERRED and (task in meant or not _failed_by_itself_once(task)):
            holding.erred_released(state, task)
            again.append(task)
            spreading.extend(task.each_dependent())
    for task in [task for task in meant if task.state is ERRED and task.key in message.keys]:
        _stays(state, client, task)
    for task in again:  # all of them before the first can fail again
        for one in task.each_client():
            if one.client_id:
                state.send(one.client_id, KeyLost(task.key))
    for task in again:
        if task.needed:
            transitions.compute(state, task)


def _stays(state: SchedulerState, client: ClientRecord, task: TaskRecord) -> None:
    """What it takes to run a failed task isn't there; who asked waits for an answer."""
    failure = task.failure
    if failure is not None and failure.type == "DataLostError":
        state.send(client.client_id, KeyErred(task.key, failure))  # that says what to do
        return
    what = "its call is" if failure is None or failure.key == task.key else f"the call of {failure.key} is"
    _refuse(state, client, task.key, f"{what} not known any more, only how it failed; submit it again")


def _refuse(state: SchedulerState, client: ClientRecord, key: Key, reason: str) -> None:
    state.send(client.client_id, KeyCancelled(key, reason, "lost"))
    task = state.tasks.get(key)
    if task is not None:
        task.discard_client(client)
        state.check.append(task)


def _failed_by_itself_once(task: TaskRecord) -> bool:
    """Whether an ERRED task has failed not by what it depends on, and runs again only for who means itself."""
    return task.pool.at_most_once and task.failure is not None and task.failure.key == task.key
