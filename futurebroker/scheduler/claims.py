"""Results that workers kept of their time with a former scheduler, and who waits for such results.

A worker that meets a new scheduler tells what it holds. What a client asks for, by submitting or wanting it again, is
taken from there instead of being computed; what nobody has asked for after a grace time is freed. The other way round,
a client may want a key that only a worker can know: its record waits for as long, and then counts as lost.
"""

from __future__ import annotations

from functools import partial

from futurebroker.protocol.messages import KEEP_LIMIT, Inventory, TaskOptions
from futurebroker.scheduler import placement, recording, transitions
from futurebroker.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import DATA, ERRED, MEMORY, NO_WORKER, PROCESSING, RELEASED, Claim, SchedulerState
from futurebroker.types import Key

#: seconds that sums of times may be off by
SLACK = 1e-6
#: no worker answers to this: what waits for a claim is never sent anywhere
_NOBODY = TaskOptions(workers=("\0",))


def inventory(state: SchedulerState, worker: WorkerRecord, message: Inventory) -> None:
    """A worker tells what it kept."""
    for key, value in message.values:
        _offer(state, worker, key, len(value), "", value)
    for key, nbytes, path in message.held:
        _offer(state, worker, key, nbytes, path, None)


def _offer(state: SchedulerState, worker: WorkerRecord, key: Key, nbytes: int, path: str, value: bytes | None) -> None:
    task = state.tasks.get(key)
    if value is not None and len(value) > KEEP_LIMIT:
        value = None
    if task is None:
        claim = state.claims.setdefault(key, Claim(state.now, nbytes))
        look_after(state, state.now)
        claim.value = value
        claim.holders[worker] = path
    elif task.state is MEMORY and task.value is None:
        task.add_holder(worker, path)
    elif task.state is MEMORY or task.state is PROCESSING:
        # Where it runs, a Free would take the new result; that takes the place of the old one in any case.
        if task.worker is not worker:
            state.free(worker, key)
    elif task.needed and task.state is not ERRED:
        claim = Claim(state.now, nbytes)
        claim.value = value
        claim.holders[worker] = path
        take(state, task, claim)
    else:
        state.free(worker, key)


def claimed(state: SchedulerState, task: TaskRecord) -> bool:
    """Whether a worker kept the result of a new record, which then is in MEMORY."""
    claim = state.claims.pop(task.key, None)
    if claim is None:
        return False
    take(state, task, claim)
    return True


def take(state: SchedulerState, task: TaskRecord, claim: Claim) -> None:
    """The result of a RELEASED or waiting task is what was claimed."""
    recording.claimed(state, task, claim.nbytes, claim.value)
    if task.state is not RELEASED:
        transitions.unfinished_released(state, task)
    state.awaited.pop(task, None)
    for dependency in task.dependencies:
        dependency.needed_by += 1  # for as long as it takes to say that they are not needed
    state.move(task, MEMORY)
    task.nbytes = claim.nbytes
    if claim.value is not None:
        task.value = claim.value
        for worker in claim.holders:
            state.free(worker, task.key)
    else:
        for worker, path in claim.holders.items():
            task.add_holder(worker, path)
    transitions.memory_reached(state, task, claim.value, "")


def await_claim(state: SchedulerState, client: ClientRecord, key: Key) -> None:
    """A client wants a key of a former scheduler's that nobody can submit."""
    task = state.add_task(key, state.kind(DATA), None, b"", (), placement.pool_for(state, _NOBODY))
    task.add_client(client)
    if claimed(state, task):
        return
    state.awaited[task] = state.now
    look_after(state, state.now)
    state.move(task, NO_WORKER)
    task.pool.stranded[task] = None


def expire(state: SchedulerState) -> None:
    """Time went by: free what nobody asked for, and give up what nobody has."""
    before = state.now - state.policy.claim_grace
    for key, claim in list(state.claims.items()):
        if claim.since <= before + SLACK:
            del state.claims[key]
            for worker in claim.holders:
                state.free(worker, key)
    for task, since in list(state.awaited.items()):
        if task.state is not NO_WORKER:
            del state.awaited[task]
        elif since <= before + SLACK:
            del state.awaited[task]
            transitions.unfinished_released(state, task)
            reason = f"no worker has {task.key}, which was made before the scheduler was restarted; make it again"
            transitions.released_erred(state, task, reason)
    times = [*(claim.since for claim in state.claims.values()), *state.awaited.values()]
    state.claims_timer = None
    if times:
        look_after(state, min(times))


def look_after(state: SchedulerState, since: float) -> None:
    """Look when the one that waits since then has waited for too long, unless a look is due already."""
    if state.claims_timer is None:
        state.claims_timer = state.timers.at(since + state.policy.claim_grace, partial(expire, state))


def claimant_lost(state: SchedulerState, worker: WorkerRecord) -> None:
    """A worker is gone, with what it kept."""
    for key, claim in list(state.claims.items()):
        if claim.holders.pop(worker, None) is not None and not claim.holders and claim.value is None:
            del state.claims[key]
