"""Work stealing: a worker with room gets what another has been sent and has not begun.

Stealing is a request. The victim hands back what it has not begun, by one GaveBack a task; what runs there already gets
no answer and ends as it would have. A task counts as the victim's until its GaveBack is there, so nothing runs twice.

The window keeps most of the backlog on the scheduler, and there is little to steal: tasks placed where their inputs
lie, tasks behind one that takes longer than its kind did so far, and the last of a load. A task is asked for only when
the wait before it is longer than all that moving it costs, by a margin in which placement would not send it back.

Work an event is bounded: a few victims, a few tasks of one, a few thieves for each; one request a victim at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from futurebroker.protocol.messages import GiveBack
from futurebroker.scheduler import placement, transitions
from futurebroker.scheduler.records import StealRequest, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import QUEUED, SchedulerState
from futurebroker.states import WorkerStatus

#: laden workers that are compared, however many there are
VICTIMS = 4
#: tasks of a victim that are looked at, newest first
LOOKED = 32
#: tasks one request names at most
MOST = 16
#: inputs a task may have to be stolen: more take too long to add up
INPUTS = 64
#: seconds that waiting must be longer than moving, in units of the window's horizon
MARGIN = 2
#: seconds after which what was asked for and has not come is taken to have begun; doubled while nothing comes
PATIENCE = 0.5
PATIENCE_MAX = 8.0
#: seconds until a victim that has nothing for anybody is looked at again
PAUSE = 0.01
#: seconds a paused worker is taken to stay so
PAUSED_WAIT = 1.0


def steal(state: SchedulerState) -> None:
    """Ask the most laden of a few workers for what would start sooner elsewhere; called when somebody has room."""
    victim = _victim(state)
    if victim is None:
        return
    before = state.requests.get(victim)
    asked = _choose(state, victim)
    if not asked:
        if before is None:
            state.requests[victim] = StealRequest({}, state.now + PAUSE, PATIENCE)
        else:
            before.until = state.now + PAUSE
        return
    patience = PATIENCE
    if before is not None and before.asked and not before.given:
        patience = min(2 * before.patience, PATIENCE_MAX)
    state.requests[victim] = StealRequest(asked, state.now + patience, patience)
    state.counters["steal_requests"] += 1
    state.counters["steal_asked"] += len(asked)
    state.send(victim.worker_id, GiveBack([(task.key, task.attempt) for task in asked]))


def given(state: SchedulerState, victim: WorkerRecord, task: TaskRecord) -> WorkerRecord | None:
    """``victim`` hands ``task`` back: for whom it was asked for, None if it wasn't. Call before the task is moved."""
    request = state.requests.get(victim)
    asked = request.asked.get(task) if request is not None else None
    if request is None or asked is None or asked[0] != task.attempt:
        return None
    request.given += 1
    state.counters["stolen"] += 1
    return asked[1]


def place(state: SchedulerState, task: TaskRecord, victim: WorkerRecord, thief: WorkerRecord) -> None:
    """Send a task that came back to the thief, if that is still right; else it is as ready as any other."""
    if (
        task.state is QUEUED
        and task.kind.rate is None
        and thief in state.roomy
        and _may_take(thief, task)
        and placement.start_cost(state, task, thief) < placement.start_cost(state, task, victim)
    ):
        transitions.queued_processing(state, task, thief)


def watch(state: SchedulerState, worker: WorkerRecord) -> None:
    """Correct what the worker's work was taken to last; called at each heartbeat, before its room is updated.

    What has run for some time is expected to run as long again, whatever its kind took so far; and what was sent long
    ago by what is known today. Estimates only rise here: the work before a task is what it waits for.
    """
    seen, now = worker.watched, state.now
    worker.watched = watched = {}
    for task in islice((task for task in worker.processing.values() if task not in worker.away), worker.slots):
        if task.function is not None:
            watched[task.attempt] = since = seen.get(task.attempt, now)
            _lengthen(worker, task, 2 * (now - since))
    _lengthen_newest(worker)


def _lengthen_newest(worker: WorkerRecord) -> None:
    for task in islice(reversed(worker.processing.values()), LOOKED):
        if task.function is not None and task not in worker.away:
            _lengthen(worker, task, task.kind.expected + placement.OVERHEAD)


def _lengthen(worker: WorkerRecord, task: TaskRecord, span: float) -> None:
    if span > task.span:
        worker.occupancy += span - task.span
        task.span = span


# -- who, from whom, what ------------------------------------------------------------------------------------------


def _victim(state: SchedulerState) -> WorkerRecord | None:
    """The most laden of a few workers; None when none has enough, or what was asked of them is still to come."""
    laden = state.laden
    best, most = None, MARGIN * state.policy.horizon
    looked = list(islice(laden, VICTIMS))
    for worker in looked:
        load = worker.occupancy / worker.slots
        if worker.status is WorkerStatus.PAUSED:
            load += PAUSED_WAIT
        if load > most and not _is_pending(state, worker):
            best, most = worker, load
    if len(laden) > VICTIMS:
        for worker in looked:
            del laden[worker]
            laden[worker] = None
    return best


def _is_pending(state: SchedulerState, victim: WorkerRecord) -> bool:
    request = state.requests.get(victim)
    if request is None or state.now >= request.until:
        return False
    asked = request.asked
    if not asked or any(task.worker is victim and task.attempt == attempt for task, (attempt, _) in asked.items()):
        return True
    del state.requests[victim]
    return False


@dataclass(slots=True)
class _Load:
    """What a thief has, with what is asked for on its behalf."""

    tasks: int
    seconds: float


def _choose(state: SchedulerState, victim: WorkerRecord) -> dict[TaskRecord, tuple[int, WorkerRecord]]:
    """The newest tasks of ``victim`` that would start sooner on another worker, each with its attempt and thief.

    The oldest are left alone: by all that is known they run. So is what follows on something made there.
    """
    _lengthen_newest(victim)
    paused = victim.status is WorkerStatus.PAUSED
    count, seconds = len(victim.processing) - len(victim.away), victim.occupancy
    begun = 0 if paused else victim.slots
    asked: dict[TaskRecord, tuple[int, WorkerRecord]] = {}
    loads: dict[WorkerRecord, _Load] = {}
    for task in islice(reversed(victim.processing.values()), min(LOOKED, count - begun)):
        if task.function is None or task.waiting_on or task in victim.away or len(task.dependencies) > INPUTS:
            continue
        if task.terms is not None and task.terms.revoked:
            continue  # it runs there or nowhere
        # What runs there is half done, as far as anybody knows.
        wait = (seconds * max(0.5, 1 - victim.slots / (2 * count)) - task.span) / victim.slots
        if paused:
            wait += PAUSED_WAIT
        gain = wait - victim.latency - MARGIN * state.policy.horizon
        thief = _thief(state, task, gain, loads)
        if thief is not None:
            asked[task] = (task.attempt, thief)
            load = loads[thief]
            load.tasks += 1
            load.seconds += task.span
            count -= 1
            seconds -= task.span
            if len(asked) == MOST:
                break
    return asked


def _thief(
    state: SchedulerState, task: TaskRecord, gain: float, loads: dict[WorkerRecord, _Load]
) -> WorkerRecord | None:
    """Where ``task`` starts soonest of a few workers with room; None if it takes ``gain`` seconds or more there."""
    best, least = None, gain
    for worker in _candidates(state, task):
        load = loads.get(worker)
        if load is None:
            load = loads[worker] = _Load(len(worker.processing) - len(worker.away), worker.occupancy)
        if load.tasks > worker.slots and (load.tasks >= worker.limit or load.seconds >= worker.window):
            continue
        if task.pool.resources and load.tasks > len(worker.processing) - len(worker.away):
            continue  # another task that is asked for may take them
        cost = placement.move_cost(state, task, worker) + load.seconds / worker.slots + worker.latency
        if cost < least:
            best, least = worker, cost
    return best


def _candidates(state: SchedulerState, task: TaskRecord) -> Iterable[WorkerRecord]:
    pool = task.pool
    if not pool.restricted:
        return islice(state.roomy, placement.CANDIDATES)
    smaller = pool.eligible if len(pool.eligible) < len(state.roomy) else state.roomy
    if pool.options.allow_other_workers:
        smaller = state.roomy
    few = [worker for worker in islice(smaller, LOOKED) if worker in state.roomy and _may_take(worker, task)]
    return few[: placement.CANDIDATES]


def _may_take(worker: WorkerRecord, task: TaskRecord) -> bool:
    """Whether the worker may run the task at all, and has its resources free."""
    pool = task.pool
    if worker not in pool.eligible and not (pool.options.allow_other_workers and placement.offers(worker, pool)):
        return False
    return placement.has_resources(worker, pool)
