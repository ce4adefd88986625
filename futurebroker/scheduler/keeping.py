"""Results that are kept for whoever asks for them, for so many seconds after the end."""

from __future__ import annotations

from functools import partial

from futurebroker.scheduler.lines import Line
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import KEPT, MEMORY, UNFINISHED, SchedulerState


def keep(state: SchedulerState, task: TaskRecord) -> None:
    """A new task: its options say whether the result is kept, or at least that it is run to its end."""
    options = task.pool.options
    if options.keep:
        task.add_client(state.holder(KEPT))
    elif options.unwanted:
        task.add_client(state.detached)


def keep_detached(state: SchedulerState, task: TaskRecord) -> None:
    """What ran for nobody has ended; somebody may still ask for it by its key."""
    seconds = state.policy.detached_keep
    if seconds and not task.pool.options.keep:
        task.add_client(state.holder(KEPT))
        ended(state, task)


def seconds_of(state: SchedulerState, task: TaskRecord) -> float:
    """For how long a task is kept after its end."""
    return task.pool.options.keep or state.policy.detached_keep


def ended(state: SchedulerState, task: TaskRecord) -> None:
    """A kept task has a result or has failed: from now on its time runs. A result that nobody wants goes at once."""
    if task.pool.options.unwanted and task.state is MEMORY:
        forget(state, task)
        return
    seconds = task.pool.options.keep or state.policy.detached_keep
    line = state.ended.get(seconds)
    if line is None:
        line = state.ended[seconds] = Line()
    line.append(state.now, task)
    task.span = state.now
    if not line.watched:
        watch(state, seconds)
    if task.wanted_by is state.kept:
        state.leaving.append((state.now, task))


def watch(state: SchedulerState, seconds: float) -> None:
    """Look when the oldest of those that are kept so long has had its time."""
    line = state.ended[seconds]
    line.watched = True
    state.timers.at(line.first()[0] + seconds, partial(_expire, state, seconds))


def _expire(state: SchedulerState, seconds: float) -> None:
    """Let go of what ended so long ago; one that runs again has a later entry."""
    line = state.ended[seconds]
    line.watched = False
    while line:
        at, task = line.first()
        if at + seconds > state.now:
            watch(state, seconds)
            return
        line.discard(at, task)
        if task.state not in UNFINISHED:
            forget(state, task)
    del state.ended[seconds]


def forget(state: SchedulerState, task: TaskRecord) -> None:
    """The result need not be kept."""
    task.discard_client(state.kept)
    if not task.needed:
        state.check.append(task)
