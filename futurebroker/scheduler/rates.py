"""How often tasks of a name may begin: a bucket of tokens on each worker, or one for all of them."""

from __future__ import annotations

from futurebroker.scheduler import placement
from futurebroker.scheduler.records import Kind, Pool, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import SchedulerState


class Rate:
    """A limit of so many runs a second. A bucket holds one token, so runs keep their distance, as in Celery."""

    __slots__ = ("_next", "for_all", "per_second")

    def __init__(self, per_second: float, for_all: bool) -> None:
        self.per_second = per_second
        self.for_all = for_all  #: workers together, not each
        #: by worker, when the next run may begin; None: all of them
        self._next: dict[str | None, float] = {}

    def free_at(self, worker: WorkerRecord) -> float:
        """When the next run may begin there."""
        return self._next.get(None if self.for_all else worker.worker_id, 0.0)

    def take(self, worker: WorkerRecord, now: float) -> None:
        """A run begins there."""
        self._next[None if self.for_all else worker.worker_id] = now + 1.0 / self.per_second


def see_to(kind: Kind, pool: Pool) -> None:
    """Tasks of ``kind`` are submitted with options that may limit their rate."""
    options = pool.options
    if options.rate_limit and not kind.is_rate_set:
        kind.rate = Rate(options.rate_limit, options.rate_for_all)
        kind.is_rate_set = True


def set_rate(state: SchedulerState, name: str, per_second: float, for_all: bool) -> None:
    """Change the limit of a name; 0: any number."""
    kind = state.kind(name)
    kind.rate = Rate(per_second, for_all) if per_second > 0 else None
    kind.is_rate_set = True


def choose_worker(state: SchedulerState, task: TaskRecord, rate: Rate) -> WorkerRecord | None:
    """The worker where a task of a limited name can begin now; None if none, and then it is looked for again in time.

    It goes through all workers that may run it: limited names are begun seldom.
    """
    pool = task.pool
    fit = [worker for worker in state.roomy if worker in pool.eligible and placement.has_resources(worker, pool)]
    if not fit:
        return None
    free = [worker for worker in fit if rate.free_at(worker) <= state.now]
    if not free:
        state.timers.at(min(rate.free_at(worker) for worker in fit), _look_again)
        return None
    best = min(free, key=lambda worker: placement.start_cost(state, task, worker))
    placement.rotate(state, best)
    rate.take(best, state.now)
    return best


def _look_again() -> None:
    """After every event it is looked who may begin."""
