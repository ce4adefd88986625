"""Tasks that a worker began for a former scheduler, taken over instead of being run again.

A worker that meets a new scheduler tells what its executors run. When the task is known, because its client submitted
it again, it becomes an attempt of ours by one message: nothing is sent for it, and it needs none of its inputs, since
it has them. Should it come back unfinished, it is a task like any other.
"""

from __future__ import annotations

from futurebroker.protocol.messages import Adopt
from futurebroker.scheduler import placement, transitions
from futurebroker.scheduler.records import TaskRecord, WorkerRecord
from futurebroker.scheduler.state import ERRED, MEMORY, PROCESSING, RELEASED, UNFINISHED, SchedulerState
from futurebroker.types import Digest


def offer(state: SchedulerState, task: TaskRecord, worker: WorkerRecord, function: Digest) -> bool:
    """``worker`` runs ``task``, calling ``function``; whether that is an attempt of ours now.

    One that was sent to another worker meanwhile is dropped there: it began later.
    """
    if task.function is None or task.function.digest != function or task in state.adopted:
        return False
    if is_renounced(state, task, worker):
        return False  # who submitted it means a new run, perhaps of other arguments
    if task.state is PROCESSING and task.worker is worker:
        return False  # the Run is on its way, and is answered with what runs
    if not task.needed or (task.state not in UNFINISHED and task.state is not RELEASED):
        return False
    pool = task.pool
    soft = pool.options.allow_other_workers and placement.offers(worker, pool)
    if not (soft or placement.may_run(pool, worker)) or not placement.has_resources(worker, pool):
        return False
    if any(dependency.state is ERRED for dependency in task.dependencies) or leads_what_runs_once(state, task):
        return False
    _adopt(state, task, worker)
    return True


def is_renounced(state: SchedulerState, task: TaskRecord, worker: WorkerRecord) -> bool:
    """Whether what the worker has of a task's key may be of another call under it."""
    return task in state.renounced and state.renounced[task] not in (worker.name, worker.worker_id)


def leads_what_runs_once(state: SchedulerState, task: TaskRecord) -> bool:
    """Whether the task is at a worker with one behind it that must not run twice.

    It may have ended there already, and the other have begun: then it can't be taken from there.
    """
    worker = task.worker
    if worker is None or worker is state.nowhere:
        return False
    reached = [task]
    while reached:
        for follower in reached.pop().each_dependent():
            if follower.worker is worker and follower.waiting_on:
                if follower.pool.at_most_once:
                    return True
                reached.append(follower)
    return False


def _adopt(state: SchedulerState, task: TaskRecord, worker: WorkerRecord) -> None:
    if task.state is PROCESSING:
        transitions.pull_back(state, task, tell=task.worker is not state.nowhere, is_taken_up=True)
    if task.state is not RELEASED:
        transitions.unfinished_released(state, task)
    state.spent.pop(task, None)  # it is the same run
    state.adopted[task] = None
    task.waiting_on = sum(dependency.state is not MEMORY for dependency in task.dependencies)
    state.move(task, PROCESSING)
    task.worker = worker
    state.attempts = task.attempt = state.attempts + 1
    task.span = task.kind.expected + placement.OVERHEAD
    worker.processing[task.attempt] = task
    worker.occupancy += task.span
    placement.take_resources(task, worker)
    state.send(worker.worker_id, Adopt(task.key, task.attempt))
    state.touched[worker] = None
