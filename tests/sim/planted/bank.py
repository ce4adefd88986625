"""Bugs that somebody might write, each as a patch of the machine or the session; the simulator must find every one.

Each entry replaces one function for as long as its context lasts. What a bug would do to a user stands in its
docstring, the laws or the outcome find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.protocol.session import Outgoing, Session
from futurebroker.scheduler import (
    claims,
    dispatch,
    holding,
    intake,
    machine,
    placement,
    reports,
    stealing,
    telling,
    transitions,
)
from futurebroker.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import MEMORY, PROCESSING, QUEUED, UNFINISHED, WAITING, SchedulerState
from futurebroker.states import WorkerStatus
from futurebroker.worker import absences
from futurebroker.worker import machine as worker_machine
from futurebroker.worker.commands import ExecutorEnded
from futurebroker.worker.records import ExecutorRecord
from futurebroker.worker.records import TaskRecord as WorkerTask

BANK: dict[str, Callable[[], Any]] = {}


def plant(*places: tuple[Any, str], table: tuple[dict[Any, Any], Any] | None = None) -> Callable[[Any], Any]:
    """Register a bug: the decorated function takes the place of each ``(owner, name)`` and of ``table[key]``."""

    def register(wrong: Any) -> Any:
        @contextmanager
        def planted() -> Iterator[None]:
            before = [(owner, name, getattr(owner, name)) for owner, name in places]
            for owner, name in places:
                setattr(owner, name, wrong)
            if table is not None:
                entries, key = table
                right, entries[key] = entries[key], wrong
            try:
                yield
            finally:
                for owner, name, right_one in before:
                    setattr(owner, name, right_one)
                if table is not None:
                    entries[key] = right

        BANK[wrong.__name__] = planted
        return wrong

    return register


# -- attempts and counts -------------------------------------------------------------------------------------------


@plant((reports, "current"))
def attempt_is_not_compared(state: SchedulerState, worker: WorkerRecord, report: Any) -> TaskRecord | None:
    """An answer to a dropped attempt ends the one that runs."""
    task = state.tasks.get(report.key)
    return task if task is not None and task.worker is worker else None


@plant(table=(machine.FROM_WORKER, m.Finished))
def completion_of_any_attempt_counts(state: SchedulerState, worker: WorkerRecord, report: m.Finished) -> None:
    """A worker that was given up and came back completes what another one runs."""
    task = state.tasks.get(report.key)
    if task is not None and task.worker is not None and task.function is not None:
        transitions.processing_memory(state, task, report)


@plant((transitions, "_free_inputs"))
def inputs_stay_needed(state: SchedulerState, task: TaskRecord) -> None:
    """Inputs are held for ever after their dependents ended."""
    for dependency in task.dependencies[1:]:
        dependency.needed_by -= 1
        if not dependency.needed_by:
            state.check.append(dependency)


@plant((transitions, "_free_inputs"))
def inputs_are_freed_with_the_first_dependent(state: SchedulerState, task: TaskRecord) -> None:
    """An input goes before everybody who needs it has run."""
    for dependency in task.dependencies:
        dependency.needed_by = 0
        state.check.append(dependency)


_right_leave_worker = transitions._leave_worker


@plant((transitions, "_leave_worker"))
def occupancy_is_not_given_back(state: SchedulerState, task: TaskRecord) -> None:
    """A worker seems ever busier, and gets nothing any more."""
    worker, before = task.worker, task.worker.occupancy if task.worker is not None else 0.0
    _right_leave_worker(state, task)
    if worker is not None:
        worker.occupancy = before


@plant((transitions, "_leave_worker"))
def resources_are_not_given_back(state: SchedulerState, task: TaskRecord) -> None:
    """The second task that needs a GPU waits for ever."""
    worker, used = task.worker, dict(task.worker.used) if task.worker is not None else {}
    _right_leave_worker(state, task)
    if worker is not None:
        worker.used = used


# -- losing and going back -----------------------------------------------------------------------------------------


@plant((transitions, "pull_back"))
def followers_are_not_pulled_back(state: SchedulerState, task: TaskRecord, *, tell: bool) -> None:
    """What was sent to follow a task waits on a worker that will never make its input."""
    transitions.processing_waiting(state, task, tell=tell)
    for dependency in task.dependencies:
        transitions.compute(state, dependency)
    if task.state is WAITING and not task.waiting_on:
        transitions.waiting_queued(state, task)


@plant((transitions, "lose"))
def lost_results_are_not_computed_again(
    state: SchedulerState, task: TaskRecord, again: bool | None = None, how: str = ""
) -> None:
    """A result that went with its worker is waited for in vain."""
    holding.memory_released(state, task)
    if task.function is None:
        transitions.released_erred(state, task, "lost")
        return
    for dependent in task.each_dependent():
        if dependent.state in UNFINISHED:
            dependent.waiting_on += 1
            if dependent.state is QUEUED:
                holding.ready_waiting(state, dependent)
    if not task.needed:
        state.check.append(task)


@plant((transitions, "cut_lineage"))
def lineage_is_cut_without_telling_the_other_end(state: SchedulerState, task: TaskRecord) -> None:
    """Inputs keep a dependent that doesn't name them, and are never forgotten."""
    task.dependencies = ()


_right_settle = transitions.settle


@plant((transitions, "settle"))
def kept_values_are_released_with_their_lineage_cut(state: SchedulerState) -> None:
    """A value is computed again from no inputs: a wrong answer."""
    for task in state.check:
        if task.state is MEMORY and task.value is not None and not task.needed and task.dependents is not None:
            holding.memory_released(state, task)
    _right_settle(state)


# -- telling -------------------------------------------------------------------------------------------------------


@plant((transitions, "_leave_unfinished"))
def tasks_are_dropped_without_telling_the_worker(state: SchedulerState, task: TaskRecord, *, tell: bool) -> None:
    """Cancelled work runs on and takes the place of work that is wanted."""
    if task.state is PROCESSING:
        _right_leave_worker(state, task)
    task.pool.stranded.pop(task, None)


_right_tell_end = telling.tell_end


@plant((transitions, "tell_end"), (reports, "tell_end"))
def failures_are_not_told(state: SchedulerState, task: TaskRecord, message: m.Message) -> None:
    """A client waits for ever for a task that failed."""
    if not isinstance(message, m.KeyErred) or message.failure.key == task.key:
        _right_tell_end(state, task, message)


_right_unfinished_erred = transitions.unfinished_erred


@plant((transitions, "unfinished_erred"))
def dependents_are_blamed_themselves(
    state: SchedulerState, task: TaskRecord, failure: m.Failure, *, tell: bool
) -> None:
    """The error names the task that was asked for, not the one that failed."""
    own = m.Failure(failure.type, failure.message, failure.traceback, task.key, failure.worker)
    _right_unfinished_erred(state, task, own, tell=tell)


@plant(table=(machine._FROM_CLIENT, m.Want))
def results_that_are_there_are_not_told_again(state: SchedulerState, client: ClientRecord, message: m.Want) -> None:
    """A second client that asks for a finished future hears nothing."""
    for key in message.keys:
        if (task := state.tasks.get(key)) is None:
            state.send(client.client_id, m.KeyCancelled(key, "", "lost"))
        else:
            task.add_client(client)


_right_cancel = intake.cancel


@plant(table=(machine._FROM_CLIENT, m.Cancel))
def cancel_takes_everybodys_futures(state: SchedulerState, client: ClientRecord, message: m.Cancel) -> None:
    """One client's cancel reaches into another's work."""
    _right_cancel(state, client, m.Cancel(message.keys, True, message.reason))


# -- placing -------------------------------------------------------------------------------------------------------


@plant((placement, "has_room"))
def paused_workers_get_work(worker: WorkerRecord) -> bool:
    """A worker over its memory limit, or out of reach, is given more."""
    return worker.status is not WorkerStatus.CLOSING and len(worker.processing) <= worker.slots


@plant((placement, "can_follow"))
def tasks_follow_inputs_made_elsewhere(task: TaskRecord, worker: WorkerRecord) -> bool:
    """A task is sent ahead to a worker that will not have its input."""
    return (
        task.state is WAITING
        and not task.pool.resources
        and worker in task.pool.eligible
        and all(dependency.state in (MEMORY, PROCESSING) for dependency in task.dependencies)
    )


_right_dispatch = dispatch.dispatch


@plant((dispatch, "dispatch"))
def ready_tasks_wait_for_another_event(state: SchedulerState) -> None:
    """A task is ready, a worker idles, and nothing happens until somebody says something."""
    if state.commands or state.touched:
        _right_dispatch(state)


# -- sessions ------------------------------------------------------------------------------------------------------


@plant((Session, "resume"))
def nothing_is_resent_after_a_reconnect(self: Session, received: int, now: float) -> list[Outgoing]:
    """What was under way when the line broke is lost."""
    self.acknowledge(received, now)
    self._unacked.clear()
    self._resend_at = None
    return []


_right_due = Session.due


@plant((Session, "due"))
def nothing_is_resent_in_time(self: Session, now: float) -> list[Outgoing]:
    """One lost envelope stops the conversation."""
    if self._resend_at is not None and now >= self._resend_at:
        self._resend_at = None
        return []
    return _right_due(self, now)


@plant((Session, "receive"))
def doubled_envelopes_are_delivered_twice(
    self: Session, sequence: int, ack: int, body: bytes, now: float
) -> list[bytes]:
    """A submit or a cancel happens again."""
    self.acknowledge(ack, now)
    if sequence == 0:
        return []
    self._owe(now)
    self._received = max(self._received, sequence)
    return [body]


@plant((Session, "receive"))
def early_envelopes_are_acknowledged_before_the_gap_is_filled(
    self: Session, sequence: int, ack: int, body: bytes, now: float
) -> list[bytes]:
    """The sender forgets an envelope that never arrived."""
    self.acknowledge(ack, now)
    if sequence == 0:
        return []
    self._owe(now)
    if sequence <= self._received:
        return []
    self._received = sequence
    return [body]


# -- stealing ------------------------------------------------------------------------------------------------------


@plant((stealing, "_may_take"))
def pinned_tasks_are_stolen(worker: WorkerRecord, task: TaskRecord) -> bool:
    """A task runs where its user said it must not."""
    return True


_right_given = stealing.given


@plant((stealing, "given"))
def a_stolen_task_is_counted_twice(
    state: SchedulerState, victim: WorkerRecord, task: TaskRecord
) -> WorkerRecord | None:
    """The figures promise twice the stealing there was."""
    thief = _right_given(state, victim, task)
    state.counters["stolen"] += thief is not None
    return thief


_right_send = SchedulerState.send


@plant((SchedulerState, "send"))
def what_is_asked_for_is_sent_to_the_thief_at_once(self: SchedulerState, peer: str, message: m.Message) -> None:
    """Stealing without waiting for the answer: what the victim began meanwhile runs twice."""
    _right_send(self, peer, message)
    if isinstance(message, m.GiveBack):
        for key, attempt in message.tasks:
            task = self.tasks[key]
            thief = self.requests[self.workers[peer]].asked[task][1]
            _right_send(self, thief.worker_id, m.Run(key, attempt, task.function.digest, task.args, (), task.order))  # type: ignore[union-attr]


_right_choose = stealing._choose


@plant((stealing, "_choose"))
def followers_are_stolen_apart_from_what_they_follow(
    state: SchedulerState, victim: WorkerRecord
) -> dict[TaskRecord, tuple[int, WorkerRecord]]:
    """A task is asked for whose input is made where it is now."""
    asked = _right_choose(state, victim)
    thief = next(iter(state.roomy))
    for task in victim.processing.values():
        if task.waiting_on and task.function is not None and thief in task.pool.eligible:
            asked[task] = (task.attempt, thief)
    return asked


# -- a restarted scheduler -----------------------------------------------------------------------------------------


@plant((claims, "expire"))
def claims_are_kept_for_ever(state: SchedulerState) -> None:
    """What nobody asks for after a restart fills the workers' stores."""


@plant((claims, "claimant_lost"))
def claims_outlive_their_worker(state: SchedulerState, worker: WorkerRecord) -> None:
    """A result is believed to be at a worker that is gone."""


_right_take_given = claims.take_given


@plant((claims, "take_given"))
def given_results_stay_where_they_can_be_lost(
    state: SchedulerState, client: ClientRecord, key: str, value: bytes
) -> None:
    """A result that its client has fails what needs it, because a worker is lost."""
    if key in state.claims:
        claims.await_claim(state, client, key)
    else:
        _right_take_given(state, client, key, value)


@plant((claims, "is_former"))
def former_keys_stay_what_they_are(task: TaskRecord) -> bool:
    """A key that one client waits for is refused to the other that submits it."""
    return False


_right_undetach = telling.undetach


@plant((telling, "undetach"), (intake, "undetach"))
def the_end_of_detached_tasks_is_not_told(state: SchedulerState, task: TaskRecord) -> None:
    """Whoever fired and forgot submits it again at each restart, for ever."""
    state.detachers.pop(task, None)
    _right_undetach(state, task)


@plant(table=(worker_machine._MESSAGES, m.Adopt))
def adoption_is_taken_for_granted(worker: Any, message: m.Adopt) -> None:
    """A task that ended before it was adopted is waited for without end."""
    worker._goes_on(message)


@plant((transitions, "hold_back"), (holding, "hold_back"))
def what_follows_on_a_lost_result_is_not_held_back(state: SchedulerState, task: TaskRecord) -> bool:
    """It runs into a void, or waits for what nobody makes."""
    return task.wanted_by is not None


# -- tasks that wait -----------------------------------------------------------------------------------------------


@plant((absences, "reports"))
def who_waits_is_never_to_blame(
    begun: list[WorkerTask], executor: ExecutorRecord, event: ExecutorEnded, is_calling: bool
) -> list[m.Message]:
    """A task that ends its executor while it waits is run again for ever."""
    told = [task for task in begun if not task.silent and not task.dropped]
    return [m.ExecutorDied(task.key, task.attempt, event.how, task.number not in event.running) for task in told]


@plant((absences, "reports"))
def who_waits_is_handed_back_unheard(
    begun: list[WorkerTask], executor: ExecutorRecord, event: ExecutorEnded, is_calling: bool
) -> list[m.Message]:
    """The scheduler believes for ever that it waits there."""
    told = [task for task in begun if not task.silent and not task.dropped and task.number in event.running]
    return [m.ExecutorDied(task.key, task.attempt, event.how) for task in told]
