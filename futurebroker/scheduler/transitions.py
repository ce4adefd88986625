"""How tasks move from state to state: one function a move, named ``start_finish``; the table stands at the foot.

A function reads, decides, writes the record and the indexes, and appends commands to the state. None of them calls
itself through others: what follows from a move for further tasks (a release, a computation, an error that travels) is
put on a list and worked off in a loop, so that a chain of a million tasks needs no stack.

`waiting_on` counts, of an unfinished task, the dependencies that are not in MEMORY. `needed_by` counts a task's
unfinished dependents.
"""

from __future__ import annotations

from collections.abc import Callable

from futurebroker.protocol.messages import (
    KEEP_LIMIT,
    AddFunction,
    Drop,
    Failure,
    Finished,
    GaveBack,
    KeyErred,
    KeyFinished,
    Stored,
)
from futurebroker.scheduler import placement, recording
from futurebroker.scheduler.holding import (
    KEPT_LOST,
    SPENT,
    be_wanted,
    cut_lineage,
    erred_released,
    get_ready,
    hold_back,
    let_go,
    may_run_again,
    memory_released,
    no_worker_queued,
    queued_no_worker,
    ready_waiting,
    runs_once,
    spend,
)
from futurebroker.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import (
    ERRED,
    FORGOTTEN,
    MEMORY,
    NO_WORKER,
    PROCESSING,
    QUEUED,
    RELEASED,
    SCHEDULED,
    UNFINISHED,
    WAITING,
    SchedulerState,
)
from futurebroker.scheduler.telling import must_be_stored, tell_end, tell_later
from futurebroker.scheduler.terms import forget_planned, fulfil, make_planned, run_message, terms_of
from futurebroker.states import TaskState

#: when nothing is missing (any more), and when the time has come
released_queued = waiting_queued = scheduled_queued = get_ready

# -- towards a result ----------------------------------------------------------------------------------------------


def compute(state: SchedulerState, task: TaskRecord) -> None:
    """Somebody needs a RELEASED task: ask for it, and for what it depends on, as deep as necessary."""
    asked = [task]
    while asked:
        task = asked.pop()
        if task.state is RELEASED and task.function is not None:
            if state.spent and task in state.spent:
                released_erred(state, task, SPENT.format(task.key))
                asked = [one for one in asked if one.needed]
            elif task.terms is not None and task.terms.revoked:
                be_wanted(state, task)  # let go of before it could fail, it fails now that somebody needs it
                give_up(state, task)
            elif task.dependencies:
                asked.extend(released_waiting(state, task))
            else:
                released_queued(state, task)


def released_waiting(state: SchedulerState, task: TaskRecord) -> list[TaskRecord]:
    """The task's result is needed; returns the dependencies that must be computed for it.

    With a failed dependency it goes on to ERRED, with none missing to QUEUED or NO_WORKER.
    """
    state.move(task, WAITING)
    missing = 0
    released: list[TaskRecord] = []
    culprit = None
    for dependency in task.dependencies:
        dependency.needed_by += 1
        if dependency.state is not MEMORY:
            missing += 1
            if dependency.state is RELEASED:
                released.append(dependency)
            elif dependency.state is ERRED:
                culprit = dependency
    task.waiting_on = missing
    if culprit is not None:
        assert culprit.failure is not None
        fail(state, task, culprit.failure)
        return []
    if not missing:
        waiting_queued(state, task)
    elif not released and len(task.dependencies) <= placement.PIPELINE_DEPENDENCIES:
        for dependency in task.dependencies:
            worker = dependency.worker
            if worker is not None:
                worker.pipeline.append(task)
                state.touched[worker] = None
                break
    return released


def queued_processing(state: SchedulerState, task: TaskRecord, worker: WorkerRecord) -> None:
    """Send the task to ``worker``: ready, or ahead of inputs that are made there (from WAITING)."""
    function = task.function
    assert function is not None
    state.move(task, PROCESSING)
    task.worker = worker
    state.attempts = task.attempt = state.attempts + 1
    task.span = span = task.kind.expected + placement.OVERHEAD
    worker.processing[task.attempt] = task
    worker.occupancy += span
    if task.pool.resources:
        placement.take_resources(task, worker)
    sent = len(worker.processing) - len(worker.away)
    if sent > worker.slots and (worker.occupancy >= worker.window or sent >= worker.limit):
        state.roomy.pop(worker, None)
        state.laden[worker] = None
    if function.digest not in worker.functions:
        worker.functions.add(function.digest)
        state.send(worker.worker_id, AddFunction(function.digest, function.kind.name, function.code))
    if task.pool.at_most_once:
        recording.begun(state, task, worker)
    message = run_message(task, worker, function)
    if state.renounced and task in state.renounced:
        message.anew = True  # or it would answer with what it may still have of this key
    state.send(worker.worker_id, message)
    if task.dependents is not None:
        for dependent in task.each_dependent():
            if dependent.state is WAITING and len(dependent.dependencies) <= placement.PIPELINE_DEPENDENCIES:
                worker.pipeline.append(dependent)
                state.touched[worker] = None


def processing_memory(state: SchedulerState, task: TaskRecord, report: Finished) -> None:
    """The task's result is there: tell who wants it, let dependents go on, release inputs nobody needs any more."""
    worker = task.worker
    assert worker is not None
    if state.chronicle is not None:
        state.chronicle.finished(state.now, task, worker, report)
    _leave_worker(state, task)
    task.kind.observe(report.duration * 1e-6)
    state.move(task, MEMORY)
    task.nbytes = report.nbytes
    value = report.value
    if value is not None and (len(value) <= KEEP_LIMIT or task.pool.options.durable):
        task.value = value
        state.free(worker, task.key)
    else:
        task.add_holder(worker, report.path)
    memory_reached(state, task, value, report.type)


def store_on(state: SchedulerState, task: TaskRecord, worker: WorkerRecord) -> None:
    """Scattered data goes to ``worker``; tasks that need it may be sent there behind it."""
    state.move(task, PROCESSING)
    task.worker = worker
    state.attempts = task.attempt = state.attempts + 1
    task.span = 0.0
    worker.processing[task.attempt] = task
    state.touched[worker] = None


def keep_value(state: SchedulerState, task: TaskRecord, value: bytes) -> None:
    """Scattered data that the scheduler keeps itself."""
    state.move(task, MEMORY)
    task.value = value
    task.nbytes = len(value)
    memory_reached(state, task, value, "")


def processing_stored(state: SchedulerState, task: TaskRecord, report: Stored) -> None:
    """Scattered data has arrived at the worker it was sent to."""
    worker = task.worker
    assert worker is not None
    _leave_worker(state, task)
    state.move(task, MEMORY)
    task.nbytes = report.nbytes
    task.add_holder(worker, report.path)
    memory_reached(state, task, None, "")


def processing_refused(state: SchedulerState, task: TaskRecord, reason: str) -> None:
    """Scattered data can't be kept by the worker it was sent to; what was submitted with it fails."""
    recording.refused(state, task, reason)
    _leave_worker(state, task)
    state.move(task, RELEASED)
    released_erred(state, task, f"the scattered data {task.key} could not be stored: {reason}")


def memory_reached(state: SchedulerState, task: TaskRecord, value: bytes | None, type_name: str) -> None:
    """What follows when a result has come, however it came."""
    if task.terms is not None:
        fulfil(state, task)
    wanted = task.wanted_by
    if value is None and must_be_stored(state, task):
        tell_later(state, task)
    elif wanted is not None:
        message = KeyFinished(task.key, value, None if value is not None else task.held(), type_name)
        if type(wanted) is ClientRecord and wanted.client_id:
            state.send(wanted.client_id, message)
        else:
            tell_end(state, task, message)
    if task.dependents is not None:
        for dependent in task.each_dependent():
            if dependent.state in UNFINISHED:
                dependent.waiting_on -= 1
                if not dependent.waiting_on and dependent.state is WAITING:
                    waiting_queued(state, dependent)
    if task.dependencies:
        _free_inputs(state, task)
        if task.value is not None:
            cut_lineage(state, task)
    if task.wanted_by is None and not task.needed_by:
        state.check.append(task)


def _free_inputs(state: SchedulerState, task: TaskRecord) -> None:
    """The task is not unfinished any more: its inputs are needed by one dependent less."""
    for dependency in task.dependencies:
        dependency.needed_by -= 1
        if not dependency.needed_by:
            state.check.append(dependency)


# -- failing -------------------------------------------------------------------------------------------------------


def fail(state: SchedulerState, task: TaskRecord, failure: Failure, *, tell: bool = True) -> None:
    """The task failed for good: it and every unfinished task that depends on it go to ERRED, with one root cause.

    Args:
        tell: send its worker a Drop; not needed when that worker reported the failure. Dependents are dropped anyway.
    """
    failing = [task]
    while failing:
        current = failing.pop()
        if current.state not in UNFINISHED:
            continue
        unfinished_erred(state, current, failure, tell=tell or current is not task)
        failing.extend(current.each_dependent())


def unfinished_erred(state: SchedulerState, task: TaskRecord, failure: Failure, *, tell: bool) -> None:
    """This task won't have a result; who wants it is told why."""
    if state.chronicle is not None:
        state.chronicle.failed(state.now, task, failure)
    _leave_unfinished(state, task, tell=tell)
    state.note(task, f"failed: {failure.type} of {failure.key}: {failure.message[:200]}", task.worker)
    state.move(task, ERRED)
    task.failure = failure
    _free_inputs(state, task)
    tell_end(state, task, KeyErred(task.key, failure))
    if task.terms is not None:
        task.terms.revoked = ""
        if task.terms.planned is not None:
            make_planned(state, task, failure)
    if not task.needed:
        state.check.append(task)


def _leave_unfinished(state: SchedulerState, task: TaskRecord, *, tell: bool) -> None:
    """Take the task out of the index its unfinished state put it in."""
    if task.state is NO_WORKER:
        task.pool.stranded.pop(task, None)
    elif task.state is SCHEDULED:
        let_go(state, task)
    elif task.state is PROCESSING:
        worker = task.worker
        assert worker is not None
        if tell:
            state.send(worker.worker_id, Drop(task.key, task.attempt))
        _leave_worker(state, task)


def _leave_worker(state: SchedulerState, task: TaskRecord) -> None:
    """The task is not on its worker any more, whatever became of it."""
    worker = task.worker
    assert worker is not None
    task.worker = None
    del worker.processing[task.attempt]
    if state.adopted and task in state.adopted:
        del state.adopted[task]
        for dependency in task.dependencies:
            dependency.needed_by += 1  # from here on it is as any other
    if worker.away:
        worker.away.pop(task, None)
    if worker.processing:
        worker.occupancy -= task.span
        for name, amount in task.pool.resources.items():
            worker.used[name] -= amount
    else:  # sums of floats drift; here they are known
        worker.occupancy = 0.0
        worker.used.clear()
    task.span = 0.0
    state.touched[worker] = None


# -- going back ----------------------------------------------------------------------------------------------------


def pull_back(state: SchedulerState, task: TaskRecord, *, tell: bool, is_taken_up: bool = False) -> None:
    """The attempt of a PROCESSING task is void; it waits for another, as do tasks that were sent to follow it.

    Args:
        tell: send the worker a Drop for the task itself; those that follow it are dropped in any case.
        is_taken_up: it goes on at once in another way; else one that must not run any more fails.
    """
    worker = task.worker
    assert worker is not None
    pulled = [task]
    back: list[TaskRecord] = []
    while pulled:
        current = pulled.pop()
        if current.state is not PROCESSING or current.worker is not worker:
            continue
        if current is not task and current.pool.at_most_once:
            if worker.worker_id not in state.workers:
                continue  # what it followed may have ended there, and it may have begun: nobody can say
            recording.reported(state, worker, GaveBack(current.key, current.attempt))
        processing_waiting(state, current, tell=tell or current is not task)
        back.append(current)
        for follower in current.each_dependent():
            if follower.waiting_on and follower not in state.adopted:
                pulled.append(follower)
    for current in back:
        if current.state is not WAITING:
            continue  # it failed with one before it
        if current.terms is not None and current.terms.revoked and not (is_taken_up and current is task):
            give_up(state, current)
            continue
        for dependency in current.dependencies:
            if dependency.state is RELEASED:
                recording.needed(state, dependency)
                compute(state, dependency)
        if current.state is WAITING and not current.waiting_on:
            waiting_queued(state, current)


def give_up(state: SchedulerState, task: TaskRecord) -> None:
    """A task that must not run (any more) fails, with all that depends on it; its terms say why."""
    why = terms_of(task).revoked
    if task.state in UNFINISHED and task.needed:  # else it is released when this event is over
        recording.given_up(state, task, why)
        fail(state, task, Failure("TaskRevokedError", why, "", task.key, "", None, [why]), tell=False)


def processing_waiting(state: SchedulerState, task: TaskRecord, *, tell: bool) -> None:
    """The task is taken from its worker and has not ended; `pull_back` says how it goes on."""
    worker = task.worker
    assert worker is not None
    if tell:
        state.send(worker.worker_id, Drop(task.key, task.attempt))
    state.note(task, "was taken back from its worker, and waits for another run", worker)
    _leave_worker(state, task)
    state.move(task, WAITING)


def lose(state: SchedulerState, task: TaskRecord, again: bool | None = None, how: str = "with its worker") -> None:
    """The last copy of a result in MEMORY is gone: compute it again if anybody waits for it.

    Tasks already sent to workers may have fetched it; they say so if not, and nothing is computed for them before.

    Args:
        again: whether to compute it, when that was decided before.
    """
    state.note(task, "its result was lost with the last worker that held it")
    may_run = may_run_again(state, task) if again is None else again
    memory_released(state, task)
    if task.function is None or (runs_once(task) and not may_run):
        recording.lost(state, task, again=False)
        what, advice = ("the scattered data", "scatter it again") if task.function is None else KEPT_LOST
        released_erred(state, task, f"the only copy of {what} {task.key} was lost {how}; {advice}")
        return
    wanted = hold_back(state, task)
    if again is None:
        again = wanted
    recording.lost(state, task, again)
    if again:
        compute(state, task)
    elif not task.needed:
        state.check.append(task)


def released_erred(state: SchedulerState, task: TaskRecord, reason: str) -> None:
    """Scattered data is gone, or a result that must not be made again: what waits for it fails."""
    fail_unasked(state, task, Failure("DataLostError", reason, "", task.key, "", None, [reason]))


def fail_unasked(state: SchedulerState, task: TaskRecord, failure: Failure) -> None:
    """A RELEASED task has failed without being tried."""
    state.move(task, ERRED)
    task.failure = failure
    tell_end(state, task, KeyErred(task.key, failure))
    for dependent in task.each_dependent():
        fail(state, dependent, failure)
    state.check.append(task)


# -- releasing -----------------------------------------------------------------------------------------------------


def settle(state: SchedulerState) -> None:
    """Release and forget what has become unneeded, and what that makes unneeded in turn."""
    check = state.check
    while check:
        task = check.pop()
        if task.wanted_by is not None or task.needed_by or task.state is FORGOTTEN:
            continue
        if task.dependents is not None and (task.function is None or task.value is not None):
            continue  # data, or lineage that was cut: it stays as long as something made from it may have to be again
        if task.state is MEMORY:
            memory_released(state, task)
            if state.adopted:
                for dependent in task.each_dependent():
                    dependent.waiting_on += dependent in state.adopted
        elif task.state in UNFINISHED:
            unfinished_released(state, task)
        if task.dependents is None:
            released_forgotten(state, task)


def unfinished_released(state: SchedulerState, task: TaskRecord) -> None:
    """Nobody needs the result any more: don't run the task."""
    if state.chronicle is not None and task.function is not None:
        state.chronicle.cancelled(state.now, task)
    if task.pool.at_most_once and task.state is PROCESSING:
        spend(state, task)
    _leave_unfinished(state, task, tell=True)
    state.move(task, RELEASED)
    _free_inputs(state, task)


def released_forgotten(state: SchedulerState, task: TaskRecord) -> None:
    """Nobody can ask for a RELEASED or ERRED task any more: its inputs lose a dependent."""
    state.move(task, FORGOTTEN)
    for dependency in task.dependencies:
        dependency.discard_dependent(task)
        state.look_at(dependency)
    task.dependencies = ()
    forget_planned(state, task)
    state.drop_task(task)


#: every move a task makes, and the function that makes it; `state.LEGAL` is checked against this table by a test
TRANSITIONS: dict[tuple[TaskState, TaskState], Callable[..., object]] = {
    (RELEASED, SCHEDULED): released_queued,
    (WAITING, SCHEDULED): waiting_queued,
    (SCHEDULED, QUEUED): scheduled_queued,
    (SCHEDULED, NO_WORKER): scheduled_queued,
    (SCHEDULED, WAITING): ready_waiting,
    (SCHEDULED, ERRED): unfinished_erred,
    (SCHEDULED, RELEASED): unfinished_released,
    (RELEASED, QUEUED): released_queued,
    (RELEASED, NO_WORKER): released_queued,
    (RELEASED, WAITING): released_waiting,
    (RELEASED, ERRED): released_erred,
    (RELEASED, FORGOTTEN): released_forgotten,
    (WAITING, QUEUED): waiting_queued,
    (WAITING, NO_WORKER): waiting_queued,
    (WAITING, PROCESSING): queued_processing,
    (WAITING, ERRED): unfinished_erred,
    (WAITING, RELEASED): unfinished_released,
    (NO_WORKER, QUEUED): no_worker_queued,
    (NO_WORKER, WAITING): ready_waiting,
    (NO_WORKER, ERRED): unfinished_erred,
    (NO_WORKER, RELEASED): unfinished_released,
    (QUEUED, NO_WORKER): queued_no_worker,
    (QUEUED, WAITING): ready_waiting,
    (QUEUED, PROCESSING): queued_processing,
    (QUEUED, ERRED): unfinished_erred,
    (QUEUED, RELEASED): unfinished_released,
    (RELEASED, PROCESSING): store_on,
    (RELEASED, MEMORY): keep_value,
    (PROCESSING, MEMORY): processing_memory,
    (PROCESSING, ERRED): unfinished_erred,
    (PROCESSING, WAITING): processing_waiting,
    (PROCESSING, RELEASED): unfinished_released,
    (MEMORY, RELEASED): memory_released,
    (ERRED, RELEASED): erred_released,
    (ERRED, FORGOTTEN): released_forgotten,
}
