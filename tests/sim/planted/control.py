"""Bugs in what operators order of workers; see `bank`."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler import limits, placement, rates, standing, steering, terms
from futurebroker.scheduler.records import WorkerRecord
from futurebroker.scheduler.state import SchedulerState
from tests.sim.planted.bank import plant


@plant(table=(steering._ACTIONS, "cancel_consumer"))
def a_queue_is_left_and_work_of_it_still_comes(state: SchedulerState, workers: list[WorkerRecord], about: Any) -> str:
    """A machine that was to do no more mail is given mail."""
    for worker in workers:
        worker.queues = dict(worker.queues or {placement.DEFAULT_QUEUE: None})
        worker.queues.pop(str(about), None)
    return ""


@plant(table=(steering._ACTIONS, "add_consumer"))
def a_queue_is_joined_and_no_work_comes(state: SchedulerState, workers: list[WorkerRecord], about: Any) -> str:
    """Tasks wait for a worker that is there."""
    for worker in workers:
        if worker.queues is not None:
            worker.queues[str(about)] = None
    return ""


@plant((rates, "set_rate"))
def a_limit_that_is_lifted_stays(state: SchedulerState, name: str, per_second: float, for_all: bool) -> None:
    """Work crawls on for as long as the scheduler lives, or stands still."""
    kind = state.kind(name)
    kind.rate = rates.Rate(per_second or 1e-3, for_all)
    kind.is_rate_set = True


@plant(table=(terms.SAYINGS, "slots"))
def more_slots_are_heard_of_and_not_looked_at(state: SchedulerState, worker: WorkerRecord, message: m.Said) -> None:
    """A worker that has grown gets no more than before."""
    worker.slots = message.about


@plant(table=(steering._ACTIONS, "shutdown"))
def who_is_told_to_leave_is_forgotten_at_once(state: SchedulerState, workers: list[WorkerRecord], about: Any) -> str:
    """What it runs is never heard of again."""
    for worker in workers:
        state.send(worker.worker_id, m.Leave("it was told to shut down"))
        worker.processing.clear()
    return ""


@plant(table=(standing.TAKERS, limits.WORD))
def a_limit_of_a_former_scheduler_does_not_hold(state: SchedulerState, message: m.RunOnExecutors) -> None:
    """A service that is called no more than it bears is called by everybody at once after a restart."""


@plant((standing, "spread"))
def a_limit_is_told_to_no_worker(state: SchedulerState, message: m.RunOnExecutors) -> None:
    """The next scheduler doesn't hear of it."""
    standing.keep(state, message)
