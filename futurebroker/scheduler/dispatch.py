"""Sends ready tasks to workers until no worker has room or no task is ready; runs once after each event."""

from __future__ import annotations

from futurebroker.scheduler import placement
from futurebroker.scheduler.records import Pool, WorkerRecord
from futurebroker.scheduler.state import SchedulerState
from futurebroker.scheduler.transitions import queued_processing


def dispatch(state: SchedulerState) -> None:
    """Give every worker with room what it can run: first what follows on what it has, then the head of the backlog."""
    touched = state.touched
    while touched:
        worker, _ = touched.popitem()
        _follow(state, worker)
    ready, roomy = state.ready, state.roomy
    blocked: list[Pool] = []
    while ready and roomy:
        pool = _first_pool(state)
        if pool is None:
            break
        task = pool.queue.peek()
        assert task is not None
        worker_or_none = placement.choose_worker(state, task)
        if worker_or_none is None:
            del ready[pool]
            blocked.append(pool)
            continue
        pool.queue.pop()
        queued_processing(state, task, worker_or_none)
        while touched:
            worker, _ = touched.popitem()
            _follow(state, worker)
    ready.update(dict.fromkeys(blocked))


def _follow(state: SchedulerState, worker: WorkerRecord) -> None:
    """Send tasks whose missing inputs are being made on ``worker``, as far as it has room."""
    pipeline = worker.pipeline
    while pipeline and placement.has_room(state, worker):
        task = pipeline.popleft()
        if placement.can_follow(task, worker):
            queued_processing(state, task, worker)


def _first_pool(state: SchedulerState) -> Pool | None:
    """The pool whose first task comes first of all; pools that turn out empty are taken off the list."""
    best, order = None, 0
    for pool in tuple(state.ready) if len(state.ready) > 1 else state.ready.copy():
        task = pool.queue.peek()
        if task is None:
            del state.ready[pool]
        elif best is None or task.order < order:
            best, order = pool, task.order
    return best
