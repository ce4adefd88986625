"""Tasks that must not run: revoked by somebody, or not begun before they expired.

What is revoked has failed, and so has everything that depends on it. An id may be revoked before its task comes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from futurebroker.protocol.messages import Conditions, Failure, GiveBack, Kill
from futurebroker.scheduler import recording, transitions
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import MEMORY, PROCESSING, UNFINISHED, WAITING, SchedulerState
from futurebroker.scheduler.terms import agree, arrive, terms_of
from futurebroker.types import Key

#: seconds an id stays revoked, and how many do; the oldest go first (Celery keeps 50,000 for three hours)
REVOKED_FOR = 3 * 3600.0
REVOKED_MOST = 50_000


def admitted(state: SchedulerState, task: TaskRecord, conditions: Conditions | None) -> bool:
    """Take in a new task that has conditions, or is awaited, or revoked; whether it has ended with that."""
    if conditions is not None:
        agree(state, task, conditions)
    if state.expected:
        arrive(state, task)
    if task.key in state.revoked:
        _begin(state, task)
        transitions.fail(state, task, _failure(task, "revoked"))
        return True
    terms = task.terms
    if terms is not None and terms.expires:
        at = terms.expires - state.clock_offset
        if at <= state.now:
            _begin(state, task)
            transitions.fail(state, task, _failure(task, "expired"))
            return True
        state.timers.at(at, partial(expire, state, task))
    return False


def _begin(state: SchedulerState, task: TaskRecord) -> None:
    """Have it be wanted first, as every task is before it fails; what it would need isn't computed."""
    for dependency in task.dependencies:
        dependency.needed_by += 1
    task.waiting_on = sum(dependency.state is not MEMORY for dependency in task.dependencies)
    state.move(task, WAITING)


def expire(state: SchedulerState, task: TaskRecord) -> None:
    """Its time to begin is over."""
    _give_up(state, task, "expired")


def revoke(state: SchedulerState, keys: list[Key], terminate: bool) -> list[Key]:
    """These tasks must not run; with ``terminate`` they are also ended where they run. Returns those that are known."""
    known = []
    for key in keys:
        state.revoked.pop(key, None)
        state.revoked[key] = state.now
        task = state.tasks.get(key)
        if task is not None and task.state in UNFINISHED:
            known.append(key)
            _give_up(state, task, "terminated" if terminate else "revoked")
    while len(state.revoked) > REVOKED_MOST:
        del state.revoked[next(iter(state.revoked))]
    for key, since in list(state.revoked.items()):
        if since + REVOKED_FOR > state.now:
            break
        del state.revoked[key]
    return known


def _give_up(state: SchedulerState, task: TaskRecord, why: str) -> None:
    """Fail it, unless it runs and is to be left alone then; its worker is asked whether it does."""
    if task.state not in UNFINISHED:
        return
    worker = task.worker
    if task.state is PROCESSING and worker is not None and why != "terminated":
        terms_of(task).revoked = why
        state.send(worker.worker_id, GiveBack([(task.key, task.attempt)]))
        return
    if worker is not None:
        state.send(worker.worker_id, Kill(task.key, task.attempt))
    transitions.fail(state, task, _failure(task, why), tell=False)


def given_back(state: SchedulerState, task: TaskRecord) -> bool:
    """An attempt was not begun: whether the task is given up with it."""
    if task.terms is None or not task.terms.revoked:
        return False
    transitions.fail(state, task, _failure(task, task.terms.revoked), tell=False)
    return True


def _failure(task: TaskRecord, why: str) -> Failure:
    return Failure("TaskRevokedError", why, "", task.key, "", None, [why])


def request(state: SchedulerState, about: Any) -> list[Key]:
    """Topic ``revoke``: ``[keys, terminate]``."""
    keys, terminate = about
    return revoke(state, [str(key) for key in keys], bool(terminate))


#: questions that are answered at once
TOPICS = {"revoke": request}
recording.KEPT_TOPICS.add("revoke")
