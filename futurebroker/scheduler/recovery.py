"""How a scheduler takes up where another left off: it replays the facts of the journal (sans-IO).

Facts don't tell where things are. While they are replayed, one stand-in (`SchedulerState.nowhere`) holds all results
and runs whatever is reported on; `resuming` says how the workers take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from futurebroker.protocol.facts import (
    AnyFact,
    Begun,
    Claimed,
    Died,
    GivenUp,
    Gone,
    Lost,
    Needed,
    Refused,
    Reported,
    Said,
    Shelved,
    Ticked,
    Unshelved,
)
from futurebroker.protocol.messages import Said as Telling
from futurebroker.scheduler import claims, families, lasting, machine, reports, shelving, terms, transitions
from futurebroker.scheduler.commands import ClientGone, ClientSaid
from futurebroker.scheduler.records import TaskRecord, WorkerRecord
from futurebroker.scheduler.resuming import adopt
from futurebroker.scheduler.state import MEMORY, UNFINISHED, Claim, SchedulerState
from futurebroker.states import WorkerStatus

#: seconds that moments of one clock may differ by after they were computed in another way
SLACK = 1e-4
#: writes and reads what its module adds to checkpoints
__all__ = ["begin", "lasting", "replay"]


def begin(state: SchedulerState) -> None:
    """The state is new: facts are going to be replayed into it."""
    stand_in = state.nowhere = WorkerRecord("", {"name": "a worker of a former scheduler"})
    stand_in.status = WorkerStatus.SUSPECT
    state.replaying = state.holding = True


def replay(state: SchedulerState, facts: Iterable[AnyFact], shift: float) -> None:
    """Apply ``facts``; ``shift`` is what their clock has to be put forward by to show our time.

    A fact that raised when it happened does so again, and is as far applied as it was then.
    """
    stand_in = state.nowhere
    assert stand_in is not None
    for fact in facts:
        state.now = fact.at + shift
        _REPLAY[type(fact)](state, stand_in, fact)
        while state.begun:
            transitions.compute(state, state.begun.pop(0))
        if state.check or state.ended_parents:
            families.settle(state)
        state.commands.clear()
    state.frees.clear()
    state.touched.clear()
    stand_in.pipeline.clear()


def _each(state: SchedulerState, messages: list[Any], apply: Callable[[Any], None]) -> None:
    """Apply messages one by one, going on after one that raises, as `SchedulerService.deliver` does."""
    for message in messages:
        try:
            apply(message)
        except Exception:  # noqa: BLE001 - a bug that was counted and logged when it happened
            state.counters["replay faults"] += 1


def _said(state: SchedulerState, stand_in: WorkerRecord, fact: Said) -> None:
    _each(state, fact.messages, lambda one: machine.client_said(state, ClientSaid(fact.client, (one,))))


def _reported(state: SchedulerState, stand_in: WorkerRecord, fact: Reported) -> None:
    stand_in.name = fact.worker

    def apply(report: Any) -> None:
        if type(report) is Telling:
            terms.said(state, stand_in, report)
            return
        task = state.tasks.get(report.key)
        if task is None or not adopt(state, task, stand_in, getattr(report, "attempt", 0)):
            state.counters["replay strays"] += 1
        else:
            _made_by(state, task, fact.worker)
            machine.FROM_WORKER[type(report)](state, stand_in, report)

    _each(state, fact.messages, apply)


def _made_by(state: SchedulerState, task: TaskRecord, worker: str) -> None:
    """A worker ran this call under a key that was used before: what it has, but no other worker, is of this call."""
    if task in state.renounced:
        state.renounced[task] = worker


def _died(state: SchedulerState, stand_in: WorkerRecord, fact: Died) -> None:
    stand_in.name = fact.worker
    task = state.tasks.get(fact.key)
    if task is not None and adopt(state, task, stand_in, task.attempt):
        reports.count_death(state, task, stand_in, fact.kind, fact.how)


def _lost(state: SchedulerState, stand_in: WorkerRecord, fact: Lost) -> None:
    task = state.tasks.get(fact.key)
    if task is not None and task.state is MEMORY and task.value is None:
        claims.lose(state, task, fact.again)


def _needed(state: SchedulerState, stand_in: WorkerRecord, fact: Needed) -> None:
    task = state.tasks.get(fact.key)
    if task is not None:
        transitions.compute(state, task)


def _refused(state: SchedulerState, stand_in: WorkerRecord, fact: Refused) -> None:
    task = state.tasks.get(fact.key)
    if task is not None and task.function is None and task.worker is stand_in:
        transitions.processing_refused(state, task, fact.reason)


def _claimed(state: SchedulerState, stand_in: WorkerRecord, fact: Claimed) -> None:
    task = state.tasks.get(fact.key)
    if task is not None and task.state is not MEMORY:
        claim = Claim(state.now, fact.nbytes)
        claim.value = fact.value
        claim.holders[stand_in] = ""
        claims.take(state, task, claim)


def _begun(state: SchedulerState, stand_in: WorkerRecord, fact: Begun) -> None:
    task = state.tasks.get(fact.key)
    if task is not None:
        _made_by(state, task, fact.worker)
        adopt(state, task, stand_in, fact.attempt)


def _given_up(state: SchedulerState, stand_in: WorkerRecord, fact: GivenUp) -> None:
    task = state.tasks.get(fact.key)
    if task is not None and task.state in UNFINISHED:
        terms.terms_of(task).revoked = fact.why
        transitions.give_up(state, task)


def _ticked(state: SchedulerState, stand_in: WorkerRecord, fact: Ticked) -> None:
    state.timers.run_due(state.now + SLACK)


_REPLAY: dict[type[Any], Callable[[SchedulerState, WorkerRecord, Any], None]] = {
    Said: _said,
    Reported: _reported,
    Died: _died,
    Lost: _lost,
    Needed: _needed,
    Refused: _refused,
    Claimed: _claimed,
    Gone: lambda state, _, fact: machine.client_gone(state, ClientGone(fact.client)),
    Begun: _begun,
    GivenUp: _given_up,
    Shelved: lambda state, _, fact: shelving.put_away(state, fact.keys),
    Unshelved: lambda state, _, fact: shelving.take_back(state, fact.rows),
    Ticked: _ticked,
}
