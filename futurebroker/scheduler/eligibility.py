"""Who may run the tasks of a pool, after workers came, went, or changed what they take."""

from __future__ import annotations

from futurebroker.scheduler import holding, placement
from futurebroker.scheduler.records import Pool
from futurebroker.scheduler.state import SchedulerState


def refresh(state: SchedulerState, pool: Pool) -> None:
    """Its tasks are ready or stranded by who may run them now."""
    placement.refresh_eligible(state, pool)
    if pool.eligible:
        for task in tuple(pool.stranded):
            holding.no_worker_queued(state, task)
    else:
        for task in tuple(pool.queue):
            holding.queued_no_worker(state, task)


def refresh_all(state: SchedulerState) -> None:
    """Of all pools."""
    for pool in tuple(state.pools.values()):
        refresh(state, pool)
