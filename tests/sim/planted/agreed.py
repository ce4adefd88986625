"""Bugs in what is agreed for single tasks; see `bank`."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler import beat, continuing, holding, rates, requests, revoking, terms, transitions
from futurebroker.scheduler.records import ClientRecord, TaskRecord
from futurebroker.scheduler.state import MEMORY, RELEASED, WAITING, SchedulerState
from tests.sim.planted.bank import plant


@plant((holding, "_hold"))
def tasks_are_begun_before_their_time(state: SchedulerState, task: TaskRecord) -> None:
    """A reminder comes before the meeting was called."""
    assert task.terms is not None
    task.terms.due = 0.0
    holding.get_ready(state, task)


_right_note_continued = terms.note_continued


@plant((continuing, "note_continued"))
def runs_again_are_not_counted(state: SchedulerState, task: TaskRecord, report: m.Continue) -> None:
    """A task that may be retried three times is retried for ever."""
    _right_note_continued(state, task, report)
    if task.terms is not None:
        task.terms.retries = 0


@plant((continuing, "note_continued"))
def runs_again_are_begun_at_once(state: SchedulerState, task: TaskRecord, report: m.Continue) -> None:
    """A service that asked to be left alone for a minute is asked again at once."""
    _right_note_continued(state, task, report)
    if task.terms is not None:
        task.terms.due = 0.0


@plant((continuing, "_replace_inputs"))
def what_replaces_a_task_does_not_know_it(state: SchedulerState, task: TaskRecord, report: m.Continue) -> str | None:
    """The result of the replacement is let go of before it is handed on."""
    inputs = tuple(state.tasks[key] for key in report.inputs if key in state.tasks)
    for dependency in task.dependencies:
        dependency.needed_by -= 1
        dependency.discard_dependent(task)
        state.check.append(dependency)
    task.args, task.dependencies = report.args or b"", inputs
    task.waiting_on = sum(dependency.state is not MEMORY for dependency in inputs)
    state.begun.extend(dependency for dependency in inputs if dependency.state is RELEASED)
    if not task.waiting_on:
        transitions.waiting_queued(state, task)
    return None


@plant((revoking, "watch"))
def nothing_expires(state: SchedulerState, task: TaskRecord) -> None:
    """Yesterday's offer is sent today."""


_right_give_up = transitions.give_up


@plant((transitions, "give_up"))
def what_is_handed_back_is_run_though_it_was_revoked(state: SchedulerState, task: TaskRecord) -> None:
    """A revocation is forgotten when the task's worker is lost, or it asks to be run again."""
    if task.state is WAITING and not task.waiting_on and task.attempt:
        transitions.waiting_queued(state, task)
    elif task.state is not WAITING or not task.attempt:
        _right_give_up(state, task)


@plant((holding, "spend"), (transitions, "spend"))
def lineage_runs_again_what_must_not_run_twice(state: SchedulerState, task: TaskRecord) -> None:
    """An invoice is sent once more, because what was made of it went with its worker."""


@plant((rates.Rate, "take"))
def limits_of_rates_are_not_counted(self: rates.Rate, worker: Any, now: float) -> None:
    """A service that allows ten calls a minute is called as fast as can be."""


@plant((transitions, "make_planned"))
def calls_on_failure_are_not_made(state: SchedulerState, task: TaskRecord, failure: m.Failure) -> None:
    """Nobody clears up after a failure."""
    if state.now % 2 < 1:
        terms.forget_planned(state, task)
    else:
        terms.make_planned(state, task, failure)


@plant((SchedulerState, "_arrive"))
def keys_that_come_are_not_told_to_who_waits(self: SchedulerState, task: TaskRecord) -> None:
    """Who knows an id before its task is submitted waits for ever."""


@plant(table=(requests.REQUESTS, "beat_ran"))
def a_schedule_forgets_when_it_fired(state: SchedulerState, client: ClientRecord, message: m.Ask) -> None:
    """It fires as fast as it can."""
    planned = state.beat.get(message.about[0])
    if planned is not None:
        planned.runs += 1
        beat._arm(state, planned)


@plant((continuing, "call_of"))
def who_makes_the_call_of_a_replaced_task_again_is_refused(args: bytes, names: Any) -> bytes:
    """A parent that is run again finds that somebody else has its child's key."""
    return b""
