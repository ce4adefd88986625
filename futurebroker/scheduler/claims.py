"""Results that workers kept of their time with a former scheduler, and who waits for such results.

A worker that meets a new scheduler tells what it holds, and what its executors run; a client gives back the results it
has. What a client asks for, by submitting or wanting it again, is taken from there instead of being computed; what
nobody has asked for after a grace time is freed. The other way round, a client may want a key that only a worker or
another client can know: its record waits for as long, and then counts as lost.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from futurebroker.protocol.messages import (
    KEEP_LIMIT,
    GiveFailure,
    Inventory,
    KeyCancelled,
    KeyFinished,
    KeyLost,
    Submit,
    TaskOptions,
)
from futurebroker.scheduler import adoption, holding, placement, recording, transitions
from futurebroker.scheduler.admission import bad_key
from futurebroker.scheduler.adoption import leads_what_runs_once
from futurebroker.scheduler.records import ORDER_MASK, ClientRecord, FunctionRecord, Pool, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import (
    ERRED,
    FORMER,
    MEMORY,
    NO_WORKER,
    PROCESSING,
    RELEASED,
    UNFINISHED,
    Claim,
    SchedulerState,
    prioritized,
)
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
    for key, function in message.running:
        task = state.tasks.get(key)
        if task is None:
            _claim(state, key, 0).runners[worker] = function
        else:
            adoption.offer(state, task, worker, function)


def _offer(state: SchedulerState, worker: WorkerRecord, key: Key, nbytes: int, path: str, value: bytes | None) -> None:
    task = state.tasks.get(key)
    if value is not None and len(value) > KEEP_LIMIT:
        value = None
    if task is None:
        claim = _claim(state, key, nbytes)
        claim.value = value
        claim.holders[worker] = path
        claim.runners.pop(worker, None)
    elif adoption.is_renounced(state, task, worker):
        if not (task.worker is worker or worker in task.holder_paths()):  # else a Free would take what is ours
            state.free(worker, key)
    elif task.state is MEMORY and task.value is None:
        task.add_holder(worker, path)
    elif task.state is PROCESSING and task.worker is worker:
        pass  # It answers from what it kept, or has a new result soon; a Free would take that.
    elif task.needed and (task.state in UNFINISHED or task.state is RELEASED) and not leads_what_runs_once(state, task):
        claim = Claim(state.now, nbytes)
        claim.value = value
        claim.holders[worker] = path
        take(state, task, claim)
    else:
        state.free(worker, key)


def _claim(state: SchedulerState, key: Key, nbytes: int) -> Claim:
    """The claim to a key that nobody has asked for yet."""
    claim = state.claims.get(key)
    if claim is None:
        claim = state.claims[key] = Claim(state.now, nbytes)
        look_after(state, state.now)
    claim.nbytes = nbytes or claim.nbytes
    return claim


def may_be_others(state: SchedulerState, message: Submit) -> bool:
    """Whether what workers have of the key of a new call may be of another.

    With a journal they may have what was made of this one, by a scheduler that didn't live to write that it was told of
    it: it must not be made twice. So only a key counts that was used before, unless the journal tells who ran this call
    (see `recovery`).
    """
    return message.is_reused or (state.facts is None and not state.replaying)


def renounce(state: SchedulerState, task: TaskRecord) -> None:
    """A new record has a key that may have meant other work before: what workers have of it is no result of this."""
    state.renounced[task] = ""
    state.drop_claim(task.key)


def claimed(state: SchedulerState, task: TaskRecord) -> bool:
    """Whether a worker kept the result of a new record, which then is in MEMORY, or runs it, and so goes on with it."""
    claim = state.claims.pop(task.key, None)
    if claim is None:
        return False
    if claim.holders or claim.value is not None:
        take(state, task, claim)
        return True
    return any(adoption.offer(state, task, worker, function) for worker, function in claim.runners.items())


def take(state: SchedulerState, task: TaskRecord, claim: Claim) -> None:
    """The result of a RELEASED or unfinished task is what was claimed."""
    recording.claimed(state, task, claim.nbytes, claim.value)
    _take(state, task, claim)


def _take(state: SchedulerState, task: TaskRecord, claim: Claim) -> None:
    if task.state is PROCESSING:
        transitions.pull_back(state, task, tell=task.worker is not state.nowhere, is_taken_up=True)
    if task.state is not RELEASED:
        transitions.unfinished_released(state, task)
    state.awaited.pop(task, None)
    state.spent.pop(task, None)
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


# -- what clients give and ask for -----------------------------------------------------------------------------------


def take_given(state: SchedulerState, client: ClientRecord, key: Key, value: bytes) -> None:
    """A client gives back a result, which can't be lost any more: nobody may know how to compute it again."""
    task = state.tasks.get(key)
    if task is None:
        task = state.add_task(key, state.kind(FORMER), None, b"", (), placement.pool_for(state, None))
        task.add_client(client)
        state.drop_claim(key)
        transitions.keep_value(state, task, value)
        return
    task.add_client(client)
    if leads_what_runs_once(state, task):
        return
    if task.state is not MEMORY:
        if task.state is ERRED:
            holding.erred_released(state, task)
        claim = Claim(state.now, len(value))
        claim.value = value
        _take(state, task, claim)
        return
    if task.value is None and is_former(task):
        for worker in tuple(task.holder_paths()):
            task.discard_holder(worker)
            state.free(worker, key)
        task.value, task.nbytes = value, len(value)
    state.send(client.client_id, KeyFinished(key, value))


def give_failure(state: SchedulerState, client: ClientRecord, message: GiveFailure, want: Any) -> None:
    """A client tells how a task of a former scheduler's ended; what is known otherwise it wants, by ``want``."""
    key = message.key
    fault = bad_key(key)
    if fault:
        state.counters["rejected"] += 1
        state.send(client.client_id, KeyCancelled(key, fault, "rejected"))
        return
    task = state.tasks.get(key)
    if task is None:
        state.drop_claim(key)
        task = state.add_task(key, state.kind(FORMER), None, b"", (), placement.pool_for(state, None))
    elif task in state.awaited:
        del state.awaited[task]
        transitions.unfinished_released(state, task)
    else:
        want(state, client, task)
        return
    task.add_client(client)
    state.failures_given[task] = None
    transitions.fail_unasked(state, task, message.failure)


def is_former(task: TaskRecord) -> bool:
    """Whether the key is all that is known of how to compute a task: its client may yet submit it again."""
    return task.function is None and task.kind.name == FORMER


def await_claim(state: SchedulerState, client: ClientRecord, key: Key) -> None:
    """A client wants a key of a former scheduler's that it can't submit."""
    task = state.add_task(key, state.kind(FORMER), None, b"", (), placement.pool_for(state, _NOBODY))
    task.add_client(client)
    if not claimed(state, task):
        _wait(state, task)


def _wait(state: SchedulerState, task: TaskRecord) -> None:
    """A RELEASED record waits for somebody to claim or submit it."""
    state.awaited[task] = state.now
    look_after(state, state.now)
    state.move(task, NO_WORKER)
    task.pool.stranded[task] = None


def end_wait(state: SchedulerState, task: TaskRecord, pool: Pool) -> None:
    """What waited for a claim comes from a client instead, which says where it may be: it is RELEASED now."""
    del state.awaited[task]
    transitions.unfinished_released(state, task)
    state.leave_pool(task)
    state.enter_pool(task, pool)


def identify(
    state: SchedulerState, task: TaskRecord, function: FunctionRecord, args: bytes, names: tuple[Key, ...], pool: Pool
) -> str:
    """What only a key was known of is submitted: it becomes that call; or else returns why it can't."""
    if task.value is not None:
        names = ()  # it can't be lost
    dependencies = [state.tasks.get(name) for name in names]
    if None in dependencies:
        return f"its dependency {names[dependencies.index(None)]} was cancelled, lost or never known"
    following, reached = {task}, [task]
    while reached:
        fresh = [dependent for dependent in reached.pop().each_dependent() if dependent not in following]
        following.update(fresh)
        reached += fresh
    if len(set(names)) < len(names) or not following.isdisjoint(dependencies):
        return "it depends on itself, or names a dependency twice"
    if task in state.awaited:
        end_wait(state, task, pool)
    elif task.state is ERRED and _was_missing(task):
        holding.erred_released(state, task)
        for client in task.each_client():
            if client.client_id:
                state.send(client.client_id, KeyLost(task.key))
    task.kind.counts[task.state] -= 1
    function.kind.counts[task.state] += 1
    function.tasks += 1
    task.kind, task.function, task.args = function.kind, function, args
    state.leave_pool(task)
    state.enter_pool(task, pool)
    task.order = prioritized(task.order & ORDER_MASK, pool.options.priority)
    task.dependencies = tuple(dependencies)  # type: ignore[arg-type]
    for dependency in task.dependencies:
        dependency.add_dependent(task)
    return ""


def _was_missing(task: TaskRecord) -> bool:
    """Whether an ERRED task failed only because nobody knew how to make it; else its failure stands, as any does."""
    failure = task.failure
    return failure is not None and failure.type == "DataLostError" and failure.key == task.key


# -- time and loss ---------------------------------------------------------------------------------------------------


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


def lose(state: SchedulerState, task: TaskRecord, again: bool | None = None) -> None:
    """The last copy of a result is gone: it is computed again, or who can submit it is waited for.

    Args:
        again: whether to compute it, when that was decided before.
    """
    if not is_former(task):
        transitions.lose(state, task, again)
        return
    holding.memory_released(state, task)
    recording.lost(state, task, again=False)
    if not holding.hold_back(state, task):
        state.check.append(task)
        return
    state.leave_pool(task)
    state.enter_pool(task, placement.pool_for(state, _NOBODY))
    _wait(state, task)


def claimant_lost(state: SchedulerState, worker: WorkerRecord) -> None:
    """A worker is gone, with what it kept."""
    for key, claim in list(state.claims.items()):
        claim.holders.pop(worker, None)
        claim.runners.pop(worker, None)
        if not claim.holders and not claim.runners and claim.value is None:
            del state.claims[key]
