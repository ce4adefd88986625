"""Which worker runs a task: who may, who has room, and where it can start soonest."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import msgspec

from futurebroker.protocol.messages import TaskOptions
from futurebroker.scheduler.records import Pool, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import MEMORY, PROCESSING, WAITING, SchedulerState
from futurebroker.states import TaskState, WorkerStatus

_DEFAULT_OPTIONS = TaskOptions()
_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_DEFAULT_TOKEN = _encode(_DEFAULT_OPTIONS)

RUNNING = WorkerStatus.RUNNING

#: workers with room that are compared, however many there are
CANDIDATES = 4
#: a task with more dependencies than this is sent when all are there, never ahead of them
PIPELINE_DEPENDENCIES = 16
#: seconds one task costs beside its own code
OVERHEAD = 20e-6
#: weight of the newest figure in the mean bandwidth of workers to which nothing came yet
BANDWIDTH_NEWEST = 0.2
#: what sums of resources may be off by: three tenths are more than 0.3
DRIFT = 1e-9
#: the queue of tasks that name none, for workers that take from named ones only
DEFAULT_QUEUE = "celery"


# -- who may -------------------------------------------------------------------------------------------------------


def may_run(pool: Pool, worker: WorkerRecord) -> bool:
    """Whether ``worker`` is named by the pool's options and offers its resources."""
    names = pool.options.workers
    return (not names or any(worker.answers_to(name) for name in names)) and offers(worker, pool)


def offers(worker: WorkerRecord, pool: Pool) -> bool:
    """Whether the worker takes from the pool's queue, and has its resources at all, free or taken."""
    queues = worker.queues
    if queues is not None and (pool.options.queue or DEFAULT_QUEUE) not in queues:
        return False
    return all(worker.resources.get(name, 0.0) >= amount for name, amount in pool.resources.items())


def known_pool(state: SchedulerState, options: TaskOptions | None) -> Pool | None:
    """As `pool_for`, if there is one."""
    return state.pools.get(_encode(options) if options else _DEFAULT_TOKEN)


def pool_for(state: SchedulerState, options: TaskOptions | None) -> Pool:
    """Where tasks with these options wait; equal options share one pool."""
    options = options or _DEFAULT_OPTIONS
    token = _encode(options)
    pool = state.pools.get(token)
    if pool is None:
        pool = state.pools[token] = Pool(token, options)
        refresh_eligible(state, pool)
    return pool


def refresh_eligible(state: SchedulerState, pool: Pool) -> None:
    """Find out anew which connected workers may run the pool's tasks; one that leaves takes none."""
    workers = [worker for worker in state.workers.values() if worker.status is not WorkerStatus.CLOSING]
    pool.eligible = {worker: None for worker in workers if may_run(pool, worker)}
    if not pool.eligible and pool.options.allow_other_workers:
        pool.eligible = {worker: None for worker in workers if offers(worker, pool)}
    pool.restricted = bool(pool.resources) or len(pool.eligible) < len(workers)


# -- who has room --------------------------------------------------------------------------------------------------


def open_window(state: SchedulerState, worker: WorkerRecord) -> None:
    """Set how much work the worker may have, so that it is busy until more can arrive."""
    policy = state.policy
    worker.window = worker.slots * max(policy.horizon, 2 * worker.latency)
    worker.limit = worker.slots * policy.ahead


def has_room(worker: WorkerRecord) -> bool:
    """Whether the worker takes work and has less than its window; one task beyond its slots fits in any case."""
    sent = len(worker.processing) - len(worker.away)
    return worker.status is RUNNING and (
        sent <= worker.slots or (worker.occupancy < worker.window and sent < worker.limit)
    )


def is_laden(worker: WorkerRecord) -> bool:
    """Whether a worker without room has work that others might begin sooner, and can be asked for it."""
    status = worker.status
    return status is RUNNING or (status is WorkerStatus.PAUSED and bool(worker.processing))


def update_room(state: SchedulerState, worker: WorkerRecord) -> None:
    """Keep `SchedulerState.roomy` and `SchedulerState.laden` true after the worker's load or status changed."""
    if has_room(worker):
        state.roomy[worker] = None
        state.laden.pop(worker, None)
        return
    state.roomy.pop(worker, None)
    if is_laden(worker):
        state.laden[worker] = None
    else:
        state.laden.pop(worker, None)


def has_resources(worker: WorkerRecord, pool: Pool) -> bool:
    """Whether the pool's resources are free on the worker now."""
    used, capacity = worker.used, worker.resources
    return all(
        used.get(name, 0.0) + amount <= capacity.get(name, 0.0) + DRIFT for name, amount in pool.resources.items()
    )


def take_resources(task: TaskRecord, worker: WorkerRecord) -> None:
    """Book what a task needs of its worker while it runs there."""
    for name, amount in task.pool.resources.items():
        worker.used[name] = worker.used.get(name, 0.0) + amount


# -- where it starts soonest ---------------------------------------------------------------------------------------


def choose_worker(state: SchedulerState, task: TaskRecord) -> WorkerRecord | None:
    """The worker where the ready ``task`` can start soonest; None while none that may run it has room.

    Compared are the holders of its inputs and a few workers with room, never all workers. A holder without room is
    chosen all the same when waiting for it is shorter than moving the inputs.
    """
    pool = task.pool
    if not pool.restricted and not (task.dependencies and _has_stored_input(task)):
        return _next_roomy(state)
    candidates: dict[WorkerRecord, None] = {}
    for dependency in task.dependencies:
        for worker in dependency.holder_paths():
            if worker in pool.eligible and worker.status is WorkerStatus.RUNNING and has_resources(worker, pool):
                candidates[worker] = None
    candidates.update(dict.fromkeys(islice(_roomy_and_eligible(state, pool), CANDIDATES)))
    if not any(worker in state.roomy for worker in candidates):
        return None
    best = min(candidates, key=lambda worker: start_cost(state, task, worker))
    rotate(state, best)
    return best


def _has_stored_input(task: TaskRecord) -> bool:
    return any(dependency.holders is not None for dependency in task.dependencies)


def start_cost(state: SchedulerState, task: TaskRecord, worker: WorkerRecord) -> float:
    """Seconds until ``task`` could start on ``worker``: the work before it, then the inputs to be moved."""
    return worker.occupancy / worker.slots + move_cost(state, task, worker)


def move_cost(state: SchedulerState, task: TaskRecord, worker: WorkerRecord) -> float:
    """Seconds until the inputs of ``task`` that lie elsewhere are at ``worker``."""
    cost = 0.0
    for dependency in task.dependencies:
        holders = dependency.holder_paths()
        if holders and worker not in holders:
            near = any(holder.host == worker.host for holder in holders)
            speed = state.policy.local_bandwidth if near else worker.bandwidth or state.bandwidth
            cost += dependency.nbytes / speed
    return cost


def measure_bandwidth(state: SchedulerState, worker: WorkerRecord, measured: object) -> None:
    """A worker tells at how many bytes a second results came to it from other hosts; 0: none came yet."""
    if isinstance(measured, (int, float)) and measured > 0 and measured != worker.bandwidth:
        worker.bandwidth = float(measured)
        state.bandwidth += BANDWIDTH_NEWEST * (worker.bandwidth - state.bandwidth)


def _next_roomy(state: SchedulerState) -> WorkerRecord | None:
    """The least loaded of the first few workers with room; ties go round."""
    roomy = state.roomy
    if len(roomy) < 2:
        return next(iter(roomy), None)
    best = min(islice(roomy, CANDIDATES), key=_load)
    rotate(state, best)
    return best


def _load(worker: WorkerRecord) -> float:
    return (worker.occupancy + len(worker.processing) * OVERHEAD) / worker.slots


def rotate(state: SchedulerState, worker: WorkerRecord) -> None:
    """Put a worker that was chosen behind the others with room."""
    if worker in state.roomy:
        del state.roomy[worker]
        state.roomy[worker] = None


def _roomy_and_eligible(state: SchedulerState, pool: Pool) -> Iterable[WorkerRecord]:
    smaller, other = (
        (pool.eligible, state.roomy) if len(pool.eligible) < len(state.roomy) else (state.roomy, pool.eligible)
    )
    return (worker for worker in smaller if worker in other and has_resources(worker, pool))


def can_follow(task: TaskRecord, worker: WorkerRecord) -> bool:
    """Whether a waiting task may be sent to ``worker`` ahead of its inputs: all that are missing are made there."""
    if task.state is not WAITING or task.pool.resources or worker not in task.pool.eligible:
        return False
    if task.kind.rate is not None or (task.terms is not None and task.terms.due):
        return False
    for dependency in task.dependencies:
        if dependency.state is not MEMORY and (dependency.state is not PROCESSING or dependency.worker is not worker):
            return False
    return True


# -- why not -------------------------------------------------------------------------------------------------------


def explain(state: SchedulerState, task: TaskRecord) -> str:
    """Why a task is where it is, in a sentence for its owner."""
    match task.state:
        case TaskState.NO_WORKER:
            return _explain_no_worker(state, task.pool)
        case TaskState.WAITING:
            missing = [dependency.key for dependency in task.dependencies if dependency.state is not MEMORY]
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            return f"waits for {len(missing)} of its {len(task.dependencies)} dependencies: {shown}"
        case TaskState.SCHEDULED:
            due = task.terms.due if task.terms is not None else state.now
            again = f", after asking for it {task.terms.retries} times" if task.terms and task.terms.retries else ""
            return f"may run in {max(0.0, due - state.now):.1f} s{again}"
        case TaskState.QUEUED:
            return f"is ready and waits until one of {len(task.pool.eligible)} workers that may run it has room"
        case TaskState.PROCESSING:
            name = task.worker.name if task.worker is not None else "?"
            return f"was sent to worker {name}, attempt {task.attempt}"
        case TaskState.MEMORY:
            if task in state.untold:
                return f"has run; its result of {task.nbytes:,} bytes is being stored, and counts when it is"
            holders = ", ".join(worker.name for worker in task.holder_paths()) or "the scheduler"
            return f"is finished; its result of {task.nbytes:,} bytes is held by {holders}"
        case TaskState.ERRED:
            failure = task.failure
            assert failure is not None
            where = "" if failure.key == task.key else f" in its dependency {failure.key}"
            return f"failed{where} with {failure.type}: {failure.message}"
        case TaskState.RELEASED:
            return "is released: nobody wants its result now; it can be computed again"
        case _:
            return "is forgotten"


def _explain_no_worker(state: SchedulerState, pool: Pool) -> str:
    if not state.workers:
        return "no worker is connected; start one with: futurebroker worker <address>"
    parts = []
    if pool.options.workers:
        parts.append(f"named by workers={list(pool.options.workers)}")
    if pool.options.queue or any(worker.queues is not None for worker in state.workers.values()):
        parts.append(f"taking from the queue {pool.options.queue or DEFAULT_QUEUE}")
    if pool.resources:
        parts.append(f"offering resources={pool.resources}")
    present = ", ".join(f"{worker.name} on {worker.host}" for worker in islice(state.workers.values(), 5))
    return f"no connected worker is {' and '.join(parts)}; connected are: {present}"
