"""How the workers of a former scheduler's time take up again after its facts were replayed (sans-IO).

Nothing is sent to workers for a while (`SchedulerState.holding`), until those that were there before have come back and
said what they hold and run, or have had their time. What nobody has by then is lost with `SchedulerState.nowhere`, the
stand-in that had it all meanwhile, and is computed again if it is needed.
"""

from __future__ import annotations

from functools import partial

from futurebroker.scheduler import claims, placement, recording, relay, reports, storing, terms, transitions
from futurebroker.scheduler.records import TaskRecord, WorkerRecord
from futurebroker.scheduler.state import NO_WORKER, PROCESSING, QUEUED, RELEASED, UNFINISHED, WAITING, SchedulerState

#: attempts that one epoch may give out: their numbers begin at the epoch times this, so that none is used twice
ATTEMPTS = 1 << 40


def adopt(state: SchedulerState, task: TaskRecord, worker: WorkerRecord, attempt: int) -> bool:
    """``worker`` runs this attempt of an unfinished task, without having been sent it by us; False if that can't be.

    What it was sent ahead of its inputs may lack some, as in `transitions.queued_processing`.
    """
    where = task.state
    if where is PROCESSING and task.worker is worker:
        del worker.processing[task.attempt]
        task.attempt = attempt
        worker.processing[attempt] = task
        return True
    if where is PROCESSING or where not in UNFINISHED:
        return False
    if where is NO_WORKER:
        task.pool.stranded.pop(task, None)
        state.move(task, QUEUED)
    state.move(task, PROCESSING)
    task.worker = worker
    task.attempt = attempt
    task.span = task.kind.expected + placement.OVERHEAD
    worker.processing[attempt] = task
    worker.occupancy += task.span
    for name, amount in task.pool.resources.items():
        worker.used[name] = worker.used.get(name, 0.0) + amount
    state.touched[worker] = None
    return True


# -- after the replay ----------------------------------------------------------------------------------------------


def ready(state: SchedulerState, epoch: int, now: float, grace: float) -> None:
    """All facts are replayed: events may come. Workers have ``grace`` seconds to come back."""
    state.now = now
    state.replaying = False
    state.attempts = epoch * ATTEMPTS
    storing.hold_back(state)
    if state.expected:
        state.timers.at(now, partial(terms.seek_again, state))
    state.timers.at(now + grace, partial(finish, state))


def finish(state: SchedulerState) -> None:
    """Nobody is waited for any more: what has not been found is lost, and work is sent out again."""
    stand_in = state.nowhere
    if stand_in is None:
        return
    state.nowhere = None
    state.holding = False
    for task in tuple(stand_in.processing.values()):
        if task.worker is stand_in:
            _take_back(state, stand_in, task)
    for task in tuple(stand_in.holds):
        task.discard_holder(stand_in)
        if task.holders is None:
            claims.lose(state, task)
    for task in tuple(state.tasks.values()):
        # Lost while a task at a worker might have had it; that task isn't there any more.
        if task.state is WAITING:
            for dependency in task.dependencies:
                if dependency.state is RELEASED:
                    recording.needed(state, dependency)
                    transitions.compute(state, dependency)
    storing.resume(state)
    asked, state.asked_of_nowhere = state.asked_of_nowhere, []
    for asker, message in asked:
        relay.ask_holder(state, asker, message)
    for worker in state.workers.values():
        placement.update_room(state, worker)
        state.touched[worker] = None


def _take_back(state: SchedulerState, stand_in: WorkerRecord, task: TaskRecord) -> None:
    """A task that a worker which didn't come back was known to have."""
    if task.function is None:
        transitions.processing_refused(state, task, "it was on its way when the scheduler was restarted")
    elif task.pool.at_most_once:
        recording.died(state, stand_in, task, "WorkerLostError", "")
        reports.count_death(state, task, stand_in, "WorkerLostError", "")
    else:
        transitions.pull_back(state, task, tell=False)
