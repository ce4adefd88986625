"""What workers report: completions, failures, deaths of executors, missing inputs, stored data.

A completion counts only if it comes from the worker and the attempt that the scheduler currently holds for the task.
Anything else is stale: it is counted, and a result that came with it is freed where it lies.
"""

from __future__ import annotations

from typing import Any

from futurebroker.protocol.messages import (
    DataLost,
    Erred,
    ExecutorDied,
    Failure,
    Finished,
    FunctionCalled,
    GaveBack,
    Happened,
    InputsMissing,
    KeyCancelled,
    Leave,
    NotStored,
    RanOnWorkers,
    Replicate,
    Stored,
)
from futurebroker.scheduler import claims, copying, families, recording, stealing, stories, transitions
from futurebroker.scheduler.calls import PendingCall
from futurebroker.scheduler.records import TaskRecord, WorkerRecord
from futurebroker.scheduler.state import MEMORY, SchedulerState
from futurebroker.scheduler.telling import tell_end
from futurebroker.states import WorkerStatus

#: how an executor ends that ran a task longer than it may
TIME_LIMIT = "TimeLimitExceeded"


def current(state: SchedulerState, worker: WorkerRecord, report: Any) -> TaskRecord | None:
    """The task this report is about, if it is the attempt we hold on this worker; then it is noted as a fact."""
    # By the attempt and not by the key: what runs is found among few, in memory that is warm.
    task = worker.processing.get(report.attempt)
    if task is None or task.key != report.key:
        state.counters["stale"] += 1
        return None
    if state.facts is not None:
        recording.reported(state, worker, report)
    return task


def finished(state: SchedulerState, worker: WorkerRecord, report: Finished) -> None:
    """A task is done."""
    task = worker.processing.get(report.attempt)
    if task is None or task.key != report.key or task.function is None:
        _disregard(state, worker, report)
        return
    if state.facts is not None:
        recording.reported(state, worker, report)
    if state.recent.active:
        state.recent.note(task, worker, report, state.now, stories.wall(state, 0.0))
    transitions.processing_memory(state, task, report)


def _disregard(state: SchedulerState, worker: WorkerRecord, report: Finished) -> None:
    """A result that isn't waited for is not kept.

    While the worker runs a newer attempt a Free would take that one's result; it replaces this one in any case.
    """
    state.counters["stale"] += 1
    task = state.tasks.get(report.key)
    if task is None or (task.worker is not worker and worker not in task.holder_paths()):
        state.free(worker, report.key)


def erred(state: SchedulerState, worker: WorkerRecord, report: Erred) -> None:
    """A task raised: it runs again while it has retries, else it has failed."""
    task = current(state, worker, report)
    if task is None:
        return
    task.kind.observe(report.duration * 1e-6)
    task.kind.errors += 1
    chronicle = state.chronicle
    if state.recent.active:
        state.recent.note(task, worker, report, state.now, stories.wall(state, 0.0))
    if task.retried < task.pool.options.retries:
        task.retried += 1
        state.note(task, f"raised {report.failure.type}, retry {task.retried}: {report.failure.message[:200]}", worker)
        if chronicle is not None:
            text = f"{report.failure.type}: {report.failure.message}"
            chronicle.note(state.now, "task-retried", worker=worker.name, key=task.key, text=text)
        families.end(state, task)
        transitions.pull_back(state, task, tell=False)
        return
    if chronicle is not None:
        chronicle.erring(report)
    transitions.fail(state, task, report.failure, tell=False)
    if chronicle is not None:
        chronicle.erring(None)


def executor_died(state: SchedulerState, worker: WorkerRecord, report: ExecutorDied) -> None:
    """A task ended its executor: it is tried again elsewhere until it has done so too often.

    One that only went with it is tried again without blame, if it may run twice.
    """
    task = current(state, worker, report)
    if task is None:
        return
    if report.innocent and not task.pool.at_most_once:
        transitions.pull_back(state, task, tell=False)
    else:
        count_death(state, task, worker, "ExecutorDiedError", report.how)


def _limit_of(how: str) -> float:
    """The seconds that a task had; its worker says them, because the limits of its name may be others by now."""
    try:
        return float(how.removeprefix(TIME_LIMIT))
    except ValueError:
        return 0.0


def count_death(state: SchedulerState, task: TaskRecord, worker: WorkerRecord, kind: str, how: str) -> None:
    """An executor or worker was lost while it ran ``task``; after too many the task fails and says so."""
    task.deaths += 1
    if state.chronicle is not None:
        event = "worker-lost-with-task" if kind == "WorkerLostError" else "executor-died"
        state.chronicle.note(state.now, event, worker=worker.name, key=task.key, text=how)
    state.note(task, f"its executor or worker was lost while it ran: {how or kind}", worker)
    options = task.pool.options
    if how.startswith(TIME_LIMIT):
        limit = _limit_of(how)
        message = f"task {task.key} ran longer than its time limit of {limit:g} s"
        failure = Failure(TIME_LIMIT, message, "", task.key, worker.name, None, [limit])
        transitions.fail(state, task, failure, tell=False)
        return
    is_fatal = options.at_most_once or (options.fails_with_executor and kind == "ExecutorDiedError")
    if is_fatal:
        kind = "WorkerLostError"
    if task.deaths <= state.policy.allowed_failures and not is_fatal:
        transitions.pull_back(state, task, tell=False)
        return
    fields: list[object] = [task.key, worker.name, how, task.deaths]
    message = f"task {task.key} ended its executor on worker {worker.name} with {how}"
    if kind == "WorkerLostError":
        fields = [task.key, worker.name, task.deaths]
        message = f"task {task.key} lost {task.deaths} workers while it ran, the last was {worker.name}"
    transitions.fail(state, task, Failure(kind, message, "", task.key, worker.name, None, fields), tell=False)


def gave_back(state: SchedulerState, worker: WorkerRecord, report: GaveBack) -> None:
    """An attempt was not begun: the task is ready for another, or goes to the worker it was asked back for."""
    task = current(state, worker, report)
    if task is not None:
        thief = stealing.given(state, worker, task)
        transitions.pull_back(state, task, tell=False)
        if thief is not None:
            stealing.place(state, task, worker, thief)


def inputs_missing(state: SchedulerState, worker: WorkerRecord, report: InputsMissing) -> None:
    """Holders didn't have what they were said to have: correct that, and let the task wait for its inputs."""
    task = current(state, worker, report)
    for key, holder_id in report.missing:
        source, holder = state.tasks.get(key), state.workers.get(holder_id) if holder_id else worker
        if source is None or source.state is not MEMORY:
            continue
        if holder is not None and holder in source.holder_paths():
            source.discard_holder(holder)
            state.free(holder, key)  # perhaps it could only not be reached
        if source.holders is None and source.value is None:
            claims.lose(state, source)
    if task is not None and task.worker is worker:
        transitions.pull_back(state, task, tell=False)


def stored(state: SchedulerState, worker: WorkerRecord, report: Stored) -> None:
    """Data has arrived at a worker, or a copy of a result was made."""
    task = state.tasks.get(report.key)
    _take_in(state, worker, task, report)
    if state.copying:
        copying.copied(state, worker, report.key, there=True)


def _take_in(state: SchedulerState, worker: WorkerRecord, task: TaskRecord | None, report: Stored) -> None:
    if task is not None and task.function is None and task.worker is worker:
        recording.reported(state, worker, report)
        transitions.processing_stored(state, task, report)
        if task in state.broadcasts:
            del state.broadcasts[task]
            for other in task.pool.eligible:
                if other is not worker:
                    state.send(other.worker_id, Replicate(task.held()))
    elif task is not None and task.state is MEMORY and task.value is None:
        task.add_holder(worker, report.path)
        for holder in tuple(task.holder_paths()):
            if holder.status is WorkerStatus.CLOSING and holder is not worker:
                _take_over(state, holder, task)
                if not holder.holds and not holder.processing:
                    state.send(holder.worker_id, _MAY_GO)
    else:
        state.counters["stale"] += 1
        state.free(worker, report.key)


def data_lost(state: SchedulerState, worker: WorkerRecord, report: DataLost) -> None:
    """The worker's copy of a result is damaged."""
    task = state.tasks.get(report.key)
    if task is None or worker not in task.holder_paths():
        return
    state.counters["damaged"] += 1
    task.discard_holder(worker)
    state.free(worker, report.key)
    if task.holders is None and task.value is None and task.state is MEMORY:
        transitions.lose(state, task, how=f"on worker {worker.name}: {report.reason}")


def happened(state: SchedulerState, worker: WorkerRecord, report: Happened) -> None:
    """Something became of the worker's memory."""
    worker.events.append((report.at, report.kind, report.text))


def not_stored(state: SchedulerState, worker: WorkerRecord, report: NotStored) -> None:
    """Data can't be kept on that worker: its client must send it in another way."""
    if state.copying:
        copying.copied(state, worker, report.key, there=False)
    task = state.tasks.get(report.key)
    if task is None or task.function is not None or task.worker is not worker:
        return
    recording.reported(state, worker, report)
    tell_end(state, task, KeyCancelled(task.key, report.reason, "rejected"))
    for client in task.each_client():
        task.discard_client(client)
    transitions.processing_refused(state, task, report.reason)


# -- a worker that leaves ------------------------------------------------------------------------------------------

#: answers a worker that said it is closing
_MAY_GO = Leave("nothing that is needed is left there")


def see_off(state: SchedulerState, worker: WorkerRecord) -> None:
    """Have others fetch what only this closing worker holds; it may go once nothing is left, or nobody can take it."""
    others = [other for other in state.workers.values() if other.status is WorkerStatus.RUNNING]
    for task in tuple(worker.holds) if others else ():
        if any(holder.status is WorkerStatus.RUNNING for holder in task.holder_paths()):
            _take_over(state, worker, task)
        else:
            # Asked for at each heartbeat, and always of the same worker: who has it or fetches it takes no notice.
            state.send(others[task.order % len(others)].worker_id, Replicate(task.held()))
    if not worker.processing and not (others and worker.holds):
        state.send(worker.worker_id, _MAY_GO)


def _take_over(state: SchedulerState, leaving: WorkerRecord, task: TaskRecord) -> None:
    """Somebody else holds the result now."""
    task.discard_holder(leaving)
    state.free(leaving, task.key)


def function_called(state: SchedulerState, worker: WorkerRecord, report: FunctionCalled) -> None:
    """A worker answered a `client.run`."""
    call = state.calls.get(report.number)
    if call is not None and worker.worker_id in call.missing:
        del call.missing[worker.worker_id]
        call.results[worker.worker_id] = (report.value, report.failure)
        _answer_if_complete(state, report.number, call)


def worker_leaves_calls(state: SchedulerState, worker: WorkerRecord) -> None:
    """A worker is gone: calls that wait for it get a failure in its place."""
    for number, call in list(state.calls.items()):
        if worker.worker_id in call.missing:
            del call.missing[worker.worker_id]
            call.results[worker.worker_id] = (None, lost_call(worker))
            _answer_if_complete(state, number, call)


def lost_call(worker: WorkerRecord) -> Failure:
    """What `client.run` gives for a worker that went before it answered."""
    message = f"worker {worker.name} was lost before it answered"
    return Failure("TaskError", message, "", "", worker.name, None, [message])


def _answer_if_complete(state: SchedulerState, number: int, call: PendingCall) -> None:
    if not call.missing:
        del state.calls[number]
        state.send(call.client, RanOnWorkers(call.number, call.results))
