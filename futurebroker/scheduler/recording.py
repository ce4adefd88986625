"""Notes the facts that must survive while the machine applies events (sans-IO); see `protocol.facts`.

Without a journal `SchedulerState.facts` is None and nothing is noted. Neighbours that came in one event share a record,
so that a burst of completions becomes one.
"""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
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
    Ticked,
)
from futurebroker.protocol.messages import KEEP_LIMIT, Finished, PutPart
from futurebroker.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import SchedulerState

#: what clients say that must survive; `said_data` sees to scattered data
_KEPT_OF_CLIENTS = frozenset(
    (
        m.AddFunction,
        m.Submit,
        m.EndGraph,
        m.Release,
        m.Want,
        m.Cancel,
        m.Retry,
        m.Detach,
        m.OnFailure,
        m.Await,
        m.GiveFailure,
    )
)
#: topics of Ask that change what must survive; who answers such a topic adds it here
KEPT_TOPICS: set[str] = set()
#: reports that only concern who runs what
_SOFT_REPORTS = frozenset((m.GaveBack, m.InputsMissing))


def said(state: SchedulerState, client: ClientRecord, message: Any) -> None:
    """A client's message is about to be applied."""
    kind = type(message)
    if kind in _KEPT_OF_CLIENTS:
        if kind is m.AddFunction and message.digest in state.functions:
            _note_said(state, client, m.AddFunction(message.digest, message.name, b""))
        elif kind is m.Want and not message.patient and state.claims:
            _want_claimed(state, client, message)
        else:
            _note_said(state, client, message)
    elif kind is m.Ask and message.topic in KEPT_TOPICS:
        _note_said(state, client, message)


def accepted(state: SchedulerState, client: ClientRecord, message: Any) -> None:
    """What a client said, which isn't noted by `said`, is about to be applied."""
    if state.facts is not None:
        _note_said(state, client, message)


def _want_claimed(state: SchedulerState, client: ClientRecord, message: m.Want) -> None:
    """Keys that are known only because a worker still has them are wanted patiently, when this is replayed."""
    claimed = [key for key in message.keys if key in state.claims]
    rest = [key for key in message.keys if key not in state.claims]
    if claimed:
        _note_said(state, client, m.Want(claimed, patient=True))
    if rest:
        _note_said(state, client, m.Want(rest))


def said_data(state: SchedulerState, client: ClientRecord, message: Any, *, kept: bool) -> None:
    """Data is scattered; what the scheduler doesn't keep itself is noted without its bytes."""
    if state.facts is None:
        return
    if not kept:
        nbytes = len(message.value) if type(message) is m.PutValue else message.nbytes
        message = PutPart(message.key, 0, nbytes, b"", message.workers, message.broadcast)
    _note_said(state, client, message)


def _note_said(state: SchedulerState, client: ClientRecord, message: Any) -> None:
    facts = state.facts
    assert facts is not None
    last = _last(state, facts)
    if type(last) is Said and last.client == client.client_id:
        last.messages.append(message)
    else:
        facts.append(Said(state.now, client.client_id, [message]))


def _last(state: SchedulerState, facts: list[AnyFact]) -> AnyFact | None:
    """The newest fact, if it is of the event at hand: what an event leads to is settled before the next."""
    if state.noted == state.happened:
        return facts[-1] if facts else None
    state.noted = state.happened
    return None


def reported(state: SchedulerState, worker: WorkerRecord, message: Any) -> None:
    """A report counts: it is of the attempt that the scheduler holds for its task."""
    facts = state.facts
    if facts is None:
        return
    is_soft = type(message) in _SOFT_REPORTS or (type(message) is m.ExecutorDied and message.innocent)
    if is_soft and not state.tasks[message.key].pool.at_most_once:
        return
    if type(message) is Finished and message.value is not None and len(message.value) > KEEP_LIMIT:
        task = state.tasks[message.key]
        if not task.pool.options.durable:
            message = Finished(
                message.key, message.attempt, message.nbytes, message.duration, None, message.path, message.type
            )
    last = _last(state, facts)
    if type(last) is Reported and last.worker == worker.name:
        last.messages.append(message)
    else:
        facts.append(Reported(state.now, worker.name, [message]))


def told(state: SchedulerState, worker: WorkerRecord, message: m.Said) -> None:
    """An executor told what must survive; of what is told again and again of a task the newest counts."""
    facts = state.facts
    if facts is None:
        return
    last = _last(state, facts)
    if type(last) is not Reported or last.worker != worker.name:
        facts.append(Reported(state.now, worker.name, [message]))
        return
    newest = last.messages[-1]
    if type(newest) is m.Said and (newest.topic, newest.key) == (message.topic, message.key):
        last.messages[-1] = message
    else:
        last.messages.append(message)


def given_up(state: SchedulerState, task: TaskRecord, why: str) -> None:
    """A task fails because it must not run (any more)."""
    if state.facts is not None:
        state.facts.append(GivenUp(state.now, task.key, why))


def died(state: SchedulerState, worker: WorkerRecord, task: TaskRecord, kind: str, how: str) -> None:
    """A worker was lost while it ran ``task``."""
    if state.facts is not None:
        state.facts.append(Died(state.now, worker.name, task.key, kind, how))


def lost(state: SchedulerState, task: TaskRecord, again: bool) -> None:
    """The last copy of a result is gone."""
    if state.facts is not None:
        state.facts.append(Lost(state.now, task.key, again))


def needed(state: SchedulerState, task: TaskRecord) -> None:
    """A task that was lost and left at that has to be computed again."""
    if state.facts is not None:
        state.facts.append(Needed(state.now, task.key))


def refused(state: SchedulerState, task: TaskRecord, reason: str) -> None:
    """Scattered data did not arrive."""
    if state.facts is not None:
        state.facts.append(Refused(state.now, task.key, reason))


def claimed(state: SchedulerState, task: TaskRecord, nbytes: int, value: bytes | None) -> None:
    """A worker still had the result."""
    if state.facts is not None:
        state.facts.append(Claimed(state.now, task.key, nbytes, value))


def gone(state: SchedulerState, client: ClientRecord) -> None:
    """A client has left for good."""
    if state.facts is not None:
        state.facts.append(Gone(state.now, client.client_id))


def ticked(state: SchedulerState) -> None:
    """What was due has been done."""
    if state.facts is not None:
        state.facts.append(Ticked(state.now))


def begun(state: SchedulerState, task: TaskRecord, worker: WorkerRecord) -> None:
    """A task that must not run twice is sent to a worker, once this is written."""
    if state.facts is not None:
        state.guarded.add(task.key)
        state.facts.append(Begun(state.now, task.key, worker.worker_id, task.attempt))
