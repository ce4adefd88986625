"""Tasks that may begin, for the first time or again: at once, when their time has come, or after their result went."""

from __future__ import annotations

from functools import partial

from futurebroker.protocol.messages import KeyLost
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import (
    MEMORY,
    NO_WORKER,
    QUEUED,
    RELEASED,
    SCHEDULED,
    UNFINISHED,
    WAITING,
    SchedulerState,
)

#: what is said of a result that was to be kept; the task has had its effects
KEPT_LOST = ("the result of the finished task", "it isn't run a second time by itself; retry it if it may be")
#: what is said of one that is needed again and was not kept
SPENT = (
    "{} was begun once, its result was let go of and is needed again, and it must not run twice (at_most_once): retry "
    "it if it may, or hold its future, or submit it with keep=, until what is made of it is where it should be"
)


def get_ready(state: SchedulerState, task: TaskRecord) -> None:
    """The task waits for nothing more: it is QUEUED, NO_WORKER without a worker for it, SCHEDULED before its time."""
    if task.terms is not None and task.terms.due:
        if task.terms.due > state.now:
            _hold(state, task)
            return
        task.terms.due = 0.0
    pool = task.pool
    if not pool.eligible:
        state.move(task, NO_WORKER)
        pool.stranded[task] = None
        return
    state.move(task, QUEUED)
    pool.queue.push(task)
    state.ready[pool] = None


def be_wanted(state: SchedulerState, task: TaskRecord) -> None:
    """A RELEASED task that must not run is WAITING, as every task is before it fails; its inputs aren't computed."""
    for dependency in task.dependencies:
        dependency.needed_by += 1
    task.waiting_on = sum(dependency.state is not MEMORY for dependency in task.dependencies)
    state.move(task, WAITING)


def _hold(state: SchedulerState, task: TaskRecord) -> None:
    assert task.terms is not None
    state.move(task, SCHEDULED)
    task.terms.timer = state.timers.at(task.terms.due, partial(_scheduled_ready, state, task))


def _scheduled_ready(state: SchedulerState, task: TaskRecord) -> None:
    """Its time has come."""
    if task.state is SCHEDULED and task.terms is not None:
        task.terms.timer = None
        task.terms.due = 0.0
        get_ready(state, task)


def let_go(state: SchedulerState, task: TaskRecord) -> None:
    """A SCHEDULED task goes on before its time: it failed, isn't needed, or an input was lost."""
    if task.terms is not None and task.terms.timer is not None:
        state.timers.cancel(task.terms.timer)
        task.terms.timer = None


def no_worker_queued(state: SchedulerState, task: TaskRecord) -> None:
    """A worker that may run the task has come."""
    task.pool.stranded.pop(task, None)
    state.move(task, QUEUED)
    task.pool.queue.push(task)
    state.ready[task.pool] = None


def queued_no_worker(state: SchedulerState, task: TaskRecord) -> None:
    """The last worker that may run the task has gone."""
    state.move(task, NO_WORKER)
    task.pool.stranded[task] = None


def ready_waiting(state: SchedulerState, task: TaskRecord) -> None:
    """An input of a QUEUED, NO_WORKER or SCHEDULED task was lost."""
    task.pool.stranded.pop(task, None)
    let_go(state, task)
    state.move(task, WAITING)


def hold_back(state: SchedulerState, task: TaskRecord) -> bool:
    """A result is gone: who was told is told, and what was ready by it waits; whether anybody does."""
    waiting = False
    for dependent in task.each_dependent():
        if dependent.state in UNFINISHED:
            dependent.waiting_on += 1
            if dependent.state in (QUEUED, NO_WORKER, SCHEDULED):
                ready_waiting(state, dependent)
            waiting = waiting or dependent.state is WAITING
    for client in task.each_client():
        if client.client_id:
            state.send(client.client_id, KeyLost(task.key))
    return waiting or task.wanted_by is not None


def erred_released(state: SchedulerState, task: TaskRecord) -> None:
    """The failure is forgotten, because the task is to be tried again."""
    state.note(task, "is tried again after its failure")
    state.move(task, RELEASED)
    task.failure = None
    task.retried = 0
    task.deaths = 0
    state.failures_given.pop(task, None)
    state.spent.pop(task, None)  # somebody wants it run again, so it is, also if it must not be by itself
    terms = task.terms
    if terms is not None and terms.expires <= state.now + state.clock_offset:
        terms.expires = 0.0  # whoever wants it run now has been told that it had expired


def memory_released(state: SchedulerState, task: TaskRecord) -> None:
    """The result is not kept any more, here or on workers."""
    if task.pool.at_most_once:
        spend(state, task)
    state.move(task, RELEASED)
    task.value = None
    if state.untold:
        state.untold.pop(task, None)
    if task.holders is not None:
        for worker in tuple(task.holder_paths()):
            state.free(worker, task.key)
            task.discard_holder(worker)


def spend(state: SchedulerState, task: TaskRecord) -> None:
    """A task that must not run twice was begun, and has no result that could be used: only its user can retry it."""
    state.spent[task] = None


def runs_once(task: TaskRecord) -> bool:
    """Whether a result that was there must not be made a second time."""
    return bool(task.pool.options.keep) or task.pool.at_most_once


def may_run_again(state: SchedulerState, task: TaskRecord) -> bool:
    """Whether a result that is lost may be computed anew; also if it was to be kept, but nobody knows that it was."""
    is_secret = task in state.untold and task.wanted_by is not None and not task.pool.at_most_once
    return is_secret or not runs_once(task)


def cut_lineage(state: SchedulerState, task: TaskRecord) -> None:
    """The result can't be lost any more, so what it was made from need not stay known for it."""
    inputs = task.kind.inputs
    for dependency in task.dependencies:
        dependency.discard_dependent(task)
        inputs.add(dependency.kind)
        if dependency.wanted_by is None:
            state.check.append(dependency)
        else:
            state.look_at(dependency)
    task.dependencies = ()
