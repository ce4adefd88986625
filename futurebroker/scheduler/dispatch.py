"""Sends ready tasks to workers until no worker has room or no task is ready; runs once after each event."""

from __future__ import annotations

from futurebroker.scheduler import placement, rates
from futurebroker.scheduler.records import Pool, WorkerRecord
from futurebroker.scheduler.state import SchedulerState
from futurebroker.scheduler.transitions import queued_processing


def dispatch(state: SchedulerState) -> None:
    """Give every worker with room what it can run: first what follows on what it has, then the head of the backlog."""
    ready, roomy, touched = state.ready, state.roomy, state.touched
    blocked: list[Pool] = []
    while True:
        while touched:
            _follow(state, touched.popitem()[0])
        if not ready or not roomy:
            break
        pool = next(iter(ready)) if len(ready) == 1 else _first_pool(state)
        task = pool.queue.peek()
        if task is None:
            del ready[pool]
            continue
        rate = task.kind.rate
        if rate is not None:
            worker = rates.choose_worker(state, task, rate)
        elif len(roomy) == 1 and not pool.restricted and not task.dependencies:
            worker = next(iter(roomy))  # what the next line would come to
        else:
            worker = placement.choose_worker(state, task)
        if worker is None:
            del ready[pool]
            blocked.append(pool)
            continue
        pool.queue.pop()
        queued_processing(state, task, worker)
    ready.update(dict.fromkeys(blocked))


def _follow(state: SchedulerState, worker: WorkerRecord) -> None:
    """The worker's load has changed: see whether it has room, and use it first for what follows on what it makes."""
    pipeline = worker.pipeline
    while pipeline and placement.has_room(worker):
        task = pipeline.popleft()
        if placement.can_follow(task, worker):
            queued_processing(state, task, worker)
    placement.update_room(state, worker)


def _first_pool(state: SchedulerState) -> Pool:
    """The pool whose first task comes first of all; an empty one if all are."""
    best, best_order = next(iter(state.ready)), None
    for pool in state.ready:
        task = pool.queue.peek()
        if task is not None and (best_order is None or task.order < best_order):
            best, best_order = pool, task.order
    return best
