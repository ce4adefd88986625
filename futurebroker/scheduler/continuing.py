"""Tasks that did not end but asked to be run again: later, with other arguments, or with the results of others."""

from __future__ import annotations

from typing import Any

import msgspec

from futurebroker.protocol.messages import Continue, Failure, TaskOptions
from futurebroker.scheduler import placement, transitions
from futurebroker.scheduler.admission import bad_options
from futurebroker.scheduler.records import ORDER_MASK, TaskRecord, WorkerRecord
from futurebroker.scheduler.reports import current
from futurebroker.scheduler.state import ERRED, MEMORY, RELEASED, SchedulerState, prioritized
from futurebroker.scheduler.terms import call_of, note_continued, terms_of

#: options that a task may change when it asks to be run again
CHANGEABLE = frozenset({"queue", "priority", "time_limit", "soft_time_limit"})


def continued(state: SchedulerState, worker: WorkerRecord, report: Continue) -> None:
    """The attempt is over and the task goes on; its dependents go on waiting, and are told nothing."""
    task = current(state, worker, report)
    if task is None:
        return
    task.kind.observe(report.duration * 1e-6)
    note_continued(state, task, report)
    if report.options:
        _change_options(state, task, report.options)
    if report.args is None:
        state.note(task, f"asked to be run again, after {report.delay:g} s", worker)
    if report.args is None or (task.terms is not None and task.terms.revoked):
        transitions.pull_back(state, task, tell=False)
        return
    transitions.processing_waiting(state, task, tell=False)
    missing = _replace_inputs(state, task, report)
    if missing is not None:
        message = f"{task.key} was to go on with the result of {missing}, which is not known"
        failure = Failure("TaskError", message, "", task.key, worker.name, None, [message])
        transitions.fail(state, task, failure, tell=False)
    # Sent ahead; the worker has given them up with this attempt. If the task has failed now, so have they.
    for follower in task.each_dependent():
        if follower.waiting_on and follower.worker is worker:
            transitions.pull_back(state, follower, tell=True)


def _change_options(state: SchedulerState, task: TaskRecord, changes: dict[str, Any]) -> None:
    """It goes on in another queue, or otherwise; what can't be is left as it was."""
    wanted = {name: value for name, value in changes.items() if name in CHANGEABLE}
    try:
        changed = msgspec.structs.replace(task.pool.options, **wanted)
        options = msgspec.convert(msgspec.to_builtins(changed), TaskOptions)
    except (msgspec.ValidationError, TypeError):
        state.counters["unexpected"] += 1
        return
    if bad_options(options):
        state.counters["unexpected"] += 1
        return
    pool = placement.pool_for(state, options)
    state.leave_pool(task)
    state.enter_pool(task, pool)
    task.order = prioritized(task.order & ORDER_MASK, options.priority)


def _replace_inputs(state: SchedulerState, task: TaskRecord, report: Continue) -> str | None:
    """Give a WAITING task other inputs and let it go on; the key of one that isn't known, if so."""
    unknown = next((key for key in report.inputs if key not in state.tasks), None)
    if unknown is not None:
        return unknown
    inputs = tuple(state.tasks[key] for key in dict.fromkeys(report.inputs))
    for dependency in inputs:  # before the old ones are let go of, for some may be the same
        dependency.needed_by += 1
    former = task.dependencies
    for dependency in former:
        dependency.needed_by -= 1
        if dependency not in inputs:
            dependency.discard_dependent(task)
        state.check.append(dependency)
        state.look_at(dependency)
    terms = terms_of(task)
    if terms.first is None:  # who submits it again, as a parent that is run again does, knows nothing of this
        terms.first = call_of(task.args, [dependency.key for dependency in former])
    task.args = report.args or b""
    task.dependencies = inputs
    task.waiting_on = sum(dependency.state is not MEMORY for dependency in inputs)
    culprit = None
    for dependency in inputs:
        dependency.add_dependent(task)
        if dependency.state is ERRED:
            culprit = dependency
        elif dependency.state is RELEASED:
            state.begun.append(dependency)
    if culprit is not None and culprit.failure is not None:
        transitions.fail(state, task, culprit.failure, tell=False)
    elif not task.waiting_on:
        transitions.waiting_queued(state, task)
    return None
