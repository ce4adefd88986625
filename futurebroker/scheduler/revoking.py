"""Tasks that must not run: revoked by somebody, or not begun before they expired.

What is revoked has failed, and so has everything that depends on it. An id may be revoked before its task comes.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import Any

from futurebroker.protocol.messages import Conditions, Failure, GiveBack, Kill
from futurebroker.scheduler import recording, transitions
from futurebroker.scheduler.holding import be_wanted
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import PROCESSING, RELEASED, UNFINISHED, SchedulerState
from futurebroker.scheduler.terms import agree, terms_of
from futurebroker.types import Key

#: seconds an id stays revoked, and how many do; the oldest go first (Celery keeps 50,000 for three hours)
REVOKED_FOR = 3 * 3600.0
REVOKED_MOST = 50_000
#: seconds that a moment may be off by after it was computed in two ways
SLACK = 1e-3


def admitted(state: SchedulerState, task: TaskRecord, conditions: Conditions | None) -> bool:
    """Take in a new task that has conditions, or is revoked; whether it has ended with that."""
    if conditions is not None:
        agree(state, task, conditions)
    terms = task.terms
    why = "revoked" if task.key in state.revoked else ""
    if state.revoked_stamps and _is_stamped(task, state.revoked_stamps):
        why = "revoked"
    if terms is not None and terms.expires:
        if terms.expires - state.clock_offset <= state.now:
            why = why or "expired"
        else:
            watch(state, task)
    if why:
        be_wanted(state, task)
        transitions.fail(state, task, Failure("TaskRevokedError", why, "", task.key, "", None, [why]))
    return bool(why)


def watch(state: SchedulerState, task: TaskRecord) -> None:
    """Look whether a new task has begun when its time to begin is over; its record isn't held for that."""
    assert task.terms is not None
    at = max(state.now, task.terms.expires - state.clock_offset)
    state.timers.at(at, partial(_expire, state, task.key))


def _expire(state: SchedulerState, key: Key) -> None:
    """The time is over in which a task of this key had to begin."""
    task = state.tasks.get(key)
    terms = task.terms if task is not None else None
    if task is None or terms is None or not terms.expires or terms.expires > state.now + state.clock_offset + SLACK:
        return
    if terms.revoked:
        return  # that is seen to
    if _is_open(task):
        _give_up(state, [task], "expired")
    elif task.state is RELEASED:
        terms.expires = 0.0  # nobody waited for it; who comes to need it knows how late it is


def revoke(state: SchedulerState, keys: list[Key], terminate: bool) -> list[Key]:
    """These tasks must not run; with ``terminate`` they are also ended where they run. Returns those that are known."""
    transitions.settle(state)  # what was let go of in the same breath isn't failed, as it isn't when this is replayed
    for key in keys:
        state.revoked.pop(key, None)
        state.revoked[key] = state.now
    known = [task for key in dict.fromkeys(keys) if (task := state.tasks.get(key)) is not None and _is_open(task)]
    _give_up(state, known, "terminated" if terminate else "revoked")
    while len(state.revoked) > REVOKED_MOST:
        del state.revoked[next(iter(state.revoked))]
    for key, since in list(state.revoked.items()):
        if since + REVOKED_FOR > state.now:
            break
        del state.revoked[key]
    return [task.key for task in known]


def _is_stamped(task: TaskRecord, stamps: Container[tuple[str, str]]) -> bool:
    """Whether the task has one of these stamps."""
    own = task.terms.stamps if task.terms is not None else None
    return own is not None and any((name, value) in stamps for name, values in own.items() for value in values)


def revoke_stamped(state: SchedulerState, about: Any) -> list[Key]:
    """Topic ``revoke_stamped``: ``[stamps, terminate]``: as `revoke`, of all with one of these, also later ones."""
    headers, terminate = about
    stamps = [(str(name), str(value)) for name, values in headers.items() for value in values]
    for stamp in stamps:
        state.revoked_stamps.pop(stamp, None)
        state.revoked_stamps[stamp] = state.now
    while len(state.revoked_stamps) > REVOKED_MOST:
        del state.revoked_stamps[next(iter(state.revoked_stamps))]
    for stamp, since in list(state.revoked_stamps.items()):
        if since + REVOKED_FOR > state.now:
            break
        del state.revoked_stamps[stamp]
    wanted = set(stamps)
    known = [task.key for task in state.tasks.values() if _is_open(task) and _is_stamped(task, wanted)]
    return revoke(state, known, bool(terminate))


def purge_tasks(state: SchedulerState, _about: Any) -> int:
    """Give up the tasks of apps that have not begun; how many."""
    doomed = [
        task
        for task in state.tasks.values()
        if _is_open(task) and task.state is not PROCESSING and (task.pool.options.keep or task.pool.options.unwanted)
    ]
    for task in doomed:
        if _is_open(task):  # it did not fail with one before it
            _give_up(state, [task], "revoked")
    return len(doomed)


def _is_open(task: TaskRecord) -> bool:
    """Whether it is a call that has not ended."""
    return task.state in UNFINISHED and task.function is not None


def _give_up(state: SchedulerState, tasks: list[TaskRecord], why: str) -> None:
    """Fail them, but for those that run and are to be left alone then; their workers are asked whether they do.

    In any case no other attempt of them is begun.
    """
    for task in tasks:  # all of them before one fails others
        terms_of(task).revoked = why
    for task in () if state.replaying else tasks:  # what had begun then is among the facts
        worker = task.worker
        if worker is None or worker is state.nowhere:
            if worker is None or why == "terminated":
                transitions.give_up(state, task)
        elif why == "terminated":
            state.send(worker.worker_id, Kill(task.key, task.attempt))
            transitions.give_up(state, task)
        else:
            state.send(worker.worker_id, GiveBack([(task.key, task.attempt)]))


def request(state: SchedulerState, about: Any) -> list[Key]:
    """Topic ``revoke``: ``[keys, terminate]``."""
    keys, terminate = about
    return revoke(state, [str(key) for key in keys], bool(terminate))


#: questions that are answered at once
TOPICS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "revoke": request, "revoke_stamped": revoke_stamped, "purge_tasks": purge_tasks,
}  # fmt: skip
recording.KEPT_TOPICS.update(("revoke", "revoke_stamped"))
