"""Tasks that submit tasks: what a task began is kept for it while it is unfinished, and ends when it is given up.

The session of a client inside a task ends with its executor; what the task submitted doesn't, because the scheduler
wants it on the task's behalf. When the task runs again, elsewhere, it submits the same keys and finds what was done.
Futures in a task's result are kept as long as the result is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.protocol.messages import KeyCancelled, ResultHolds, TaskAway, TaskReturned
from futurebroker.scheduler import placement, recording, transitions
from futurebroker.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import FAMILY, MEMORY, RELEASED, UNFINISHED, SchedulerState
from futurebroker.types import Key

#: see `requests.QUESTIONS`; the answer to "fence" tells that all was taken that its client sent before
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {"fence": lambda _state, _about: None}

#: in a client's info, tells that it lives inside a task's executor
INSIDE = "inside"


def unfinished(state: SchedulerState, parent: Key) -> TaskRecord | None:
    """The task ``parent`` while it hasn't ended."""
    task = state.tasks.get(parent)
    return task if task is not None and task.state in UNFINISHED else None


def gone(state: SchedulerState, parent: Key) -> str:
    """Why nothing more is taken from ``parent``; empty if it is, as from a thread that a finished task left behind."""
    task = state.tasks.get(parent)
    if task is not None and (task.state in UNFINISHED or task.state is MEMORY):
        return ""
    return f"{parent}, which submitted it, was cancelled or has failed"


def adopt(state: SchedulerState, parent: TaskRecord, child: TaskRecord) -> None:
    """``parent`` submitted ``child``."""
    child.add_client(state.families.get(parent.key) or state.holder(FAMILY + parent.key))


def graph_holder(client: ClientRecord, graph: str) -> str:
    """Name of the holder of a graph that isn't complete."""
    return f"graph:{client.client_id}:{graph}"


def client_gone(state: SchedulerState, client: ClientRecord) -> None:
    """Graphs that the client didn't complete go with it."""
    start = graph_holder(client, "")
    for name in [name for name in state.holders if name.startswith(start)]:
        state.drop_holder(name)


def result_holds(state: SchedulerState, worker: WorkerRecord, message: ResultHolds) -> None:
    """The result that comes next has futures in it: they stay wanted as long as it is there."""
    parent = state.tasks.get(message.key)
    if parent is None or parent.worker is not worker or parent.attempt != message.attempt:
        return
    recording.reported(state, worker, message)
    kept = [task for key in message.keys if (task := state.tasks.get(key)) is not None and task is not parent]
    for task in kept:
        adopt(state, parent, task)
    if kept:
        state.families[parent.key].info["kept"] = [task.key for task in kept]


def settle(state: SchedulerState) -> None:
    """Work off what an event leaves to be looked at: parents that ended, and keys that nobody may need any more."""
    while state.check or state.ended_parents:
        if state.ended_parents:
            _part(state)
        transitions.settle(state)


def _part(state: SchedulerState) -> None:
    """Parents have ended in this event: let go of what they submitted."""
    ended, state.ended_parents = state.ended_parents, []
    for parent, start, finish in ended:
        family = state.families.get(parent.key)
        if family is None:
            continue
        if finish is MEMORY and "kept" in family.info:
            for task in family.wants:
                if task.key not in family.info["kept"]:
                    task.discard_client(family)
                    state.look_at(task)
        else:
            end(state, parent, given_up=start in UNFINISHED and finish is RELEASED)


def end(state: SchedulerState, parent: TaskRecord, *, given_up: bool = True) -> None:
    """``parent`` needs what it submitted no more; if it was given up, neither does the code that still runs for it."""
    family = state.families.get(parent.key)
    if family is None:
        return
    children = family.wants
    state.drop_holder(family.holds_for)
    for child in children if given_up else ():
        for client in child.each_client():
            if INSIDE in client.info:
                child.discard_client(client)
                if child.state in UNFINISHED:
                    reason = f"{parent.key}, which submitted it, was cancelled"
                    state.send(client.client_id, KeyCancelled(child.key, reason))
        if not child.needed:
            state.check.append(child)


# -- tasks that wait ------------------------------------------------------------------------------------------------


def task_away(state: SchedulerState, worker: WorkerRecord, message: TaskAway) -> None:
    """A task waits for others, or has seceded: its worker has room for another, and its time says nothing any more."""
    task = state.tasks.get(message.key)
    if task is None or task.worker is not worker or task.attempt != message.attempt or task in worker.away:
        return
    worker.away[task] = None
    worker.occupancy -= task.span
    task.span = 0.0
    placement.update_room(state, worker)
    state.touched[worker] = None


def task_returned(state: SchedulerState, worker: WorkerRecord, message: TaskReturned) -> None:
    """A task that was away takes a slot again."""
    task = state.tasks.get(message.key)
    if task is None or task not in worker.away or task.attempt != message.attempt:
        return
    del worker.away[task]
    task.span = task.kind.expected + placement.OVERHEAD
    worker.occupancy += task.span
    placement.update_room(state, worker)
