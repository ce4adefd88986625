"""What is agreed for single tasks: taking it in, running under it, going on under it, and what follows failures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from futurebroker.protocol.messages import (
    Await,
    Conditions,
    Continue,
    Failure,
    Held,
    KeyCancelled,
    OnFailure,
    PlannedCall,
    Release,
    Run,
    RunTerms,
    Said,
    TaskOptions,
)
from futurebroker.scheduler import keeping, notes, placement, recording, shelving
from futurebroker.scheduler.records import ClientRecord, FunctionRecord, TaskRecord, Terms, WorkerRecord
from futurebroker.scheduler.state import ERRED, MEMORY, UNFINISHED, SchedulerState
from futurebroker.types import Key

#: bytes of a state that a task gives itself
STATE_BYTES = 64 * 1024
#: calls planned for the failure of one task
PLANNED_MOST = 10_000
#: failures after which no planned calls are made
_NOT_FAILED = frozenset({"TaskRevokedError", "Ignore", "Reject"})


def terms_of(task: TaskRecord) -> Terms:
    """The terms of a task, made if it has none."""
    if task.terms is None:
        task.terms = Terms()
    return task.terms


def agree(state: SchedulerState, task: TaskRecord, conditions: Conditions) -> None:
    """Take in what was submitted with a new task."""
    terms = terms_of(task)
    terms.request = conditions.request
    terms.joins = conditions.joins
    terms.parent = conditions.parent
    terms.stamps = conditions.stamps
    if conditions.eta:
        terms.due = conditions.eta - state.clock_offset
    if conditions.expires:
        terms.expires = conditions.expires
    if conditions.parent:
        parent = state.tasks.get(conditions.parent)
        if parent is not None:
            known = terms_of(parent)
            known.children = [*(known.children or ()), task.key]


def call_of(args: bytes, names: Iterable[Key]) -> bytes:
    """Tells what a task was called with, and on what it depends, from all else; short."""
    digest = hashlib.blake2b(args, digest_size=16)
    for name in names:
        digest.update(b"\0" + name.encode())
    return digest.digest()


_NO_TERMS = Terms()


def run_terms(task: TaskRecord, worker: WorkerRecord) -> RunTerms:
    """What a run of the task on ``worker`` is told beyond the call."""
    terms = task.terms or _NO_TERMS
    options = task.pool.options
    soft, hard = task.kind.limits or (options.soft_time_limit, options.time_limit)
    if options.keep or options.unwanted:
        soft, hard = soft or worker.soft_time_limit, hard or worker.time_limit
    return RunTerms(
        terms.retries,
        soft,
        hard,
        task.deaths > 0,
        terms.request,
        terms.deals_with,
    )


def run_message(task: TaskRecord, worker: WorkerRecord, function: FunctionRecord) -> Run:
    """What sends the task to ``worker``."""
    dependencies = task.dependencies
    inputs = tuple([_input(dependency, worker) for dependency in dependencies]) if dependencies else ()
    if task.terms is None and task.kind.limits is None and not (worker.time_limit or worker.soft_time_limit):
        terms = task.pool.terms
    else:
        terms = run_terms(task, worker)
    return Run(task.key, task.attempt, function.digest, task.args, inputs, task.order, terms)


def _input(dependency: TaskRecord, worker: WorkerRecord) -> bytes | Held:
    """How a worker gets at one input: the value, where it lies, or nothing but the key when it is made there."""
    if dependency.value is not None:
        return dependency.value
    paths = dependency.holder_paths()
    if not paths or (worker in paths and not paths[worker]):
        return Held(dependency.key, dependency.nbytes)
    return dependency.held()


# -- going on --------------------------------------------------------------------------------------------------------


def note_continued(state: SchedulerState, task: TaskRecord, report: Continue) -> None:
    """Write down how a task goes on that asked to be run again."""
    terms = terms_of(task)
    terms.retries = report.retries
    terms.failure = report.failure if report.retries else None
    terms.custom = None
    if report.request is not None:
        terms.request = report.request
    terms.due = state.now + report.delay if report.delay > 0 else 0.0


def said(state: SchedulerState, worker: WorkerRecord, message: Said) -> None:
    """What an executor tells."""
    take = SAYINGS.get(message.topic)
    if take is None:
        state.counters["unexpected"] += 1
    else:
        take(state, worker, message)


def update_state(state: SchedulerState, worker: WorkerRecord, message: Said) -> None:
    """A task says how far it is; what has ended stays ended."""
    task = state.tasks.get(message.key)
    about = message.about
    if task is None or task.state not in UNFINISHED or not isinstance(about, (list, tuple)) or len(about) != 2:
        state.counters["stale"] += 1
        return
    name, meta = about
    if isinstance(name, str) and isinstance(meta, bytes) and len(meta) <= STATE_BYTES:
        recording.told(state, worker, message)
        terms_of(task).custom = (name, meta)


def noted(state: SchedulerState, worker: WorkerRecord, message: Said) -> None:
    """What an executor noted of tasks whose ends it reports next."""
    try:
        told, left_out = notes.read(message.about)
    except msgspec.ValidationError:
        state.counters["unexpected"] += 1
        return
    if left_out:
        state.counters["notes left out"] += left_out
    for note in told:
        note.worker = worker.name
        state.notes.add(note)
        if state.chronicle is not None:
            state.chronicle.noted(note)


#: what executors may tell, by topic; more is added by who knows more
SAYINGS: dict[str, Any] = {"state": update_state, "notes": noted}


# -- failures --------------------------------------------------------------------------------------------------------


def plan(state: SchedulerState, _client: ClientRecord, message: OnFailure) -> None:
    """Keep calls for the case that a task fails; if it has, make them now."""
    task = state.tasks.get(message.of)
    if task is None or task.state is MEMORY:
        return
    terms = terms_of(task)
    terms.planned = [*(terms.planned or ()), *message.calls][:PLANNED_MOST]
    for call in message.calls:
        function = state.functions.get(call.function)
        if function is not None:
            function.planned += 1
    if task.state is ERRED and task.failure is not None:
        state.timers.at(state.now, partial(make_planned, state, task, task.failure))


def make_planned(state: SchedulerState, task: TaskRecord, failure: Failure) -> None:
    """The task has failed: make the calls that were planned for this."""
    terms = task.terms
    if terms is None or terms.planned is None:
        return
    calls, terms.planned = terms.planned, None
    own = failure.key == task.key or terms.joins
    made: dict[Key, TaskRecord] = {}
    for call in calls:
        if own and failure.type not in _NOT_FAILED:
            _make(state, task, call, failure, made)
        _unplan(state, call)


def fulfil(state: SchedulerState, task: TaskRecord) -> None:
    """The task has a result. If that is lost, what it is made of once more is neither too late nor unwanted."""
    assert task.terms is not None
    task.terms.revoked = ""
    task.terms.expires = 0.0
    forget_planned(state, task)


def forget_planned(state: SchedulerState, task: TaskRecord) -> None:
    """The task won't fail any more."""
    terms = task.terms
    if terms is not None and terms.planned is not None:
        calls, terms.planned = terms.planned, None
        for call in calls:
            _unplan(state, call)


def _unplan(state: SchedulerState, call: PlannedCall) -> None:
    function = state.functions.get(call.function)
    if function is not None:
        function.planned -= 1
        state.drop_function_if_unused(function)


def _make(
    state: SchedulerState, failed: TaskRecord, call: PlannedCall, failure: Failure, made: dict[Key, TaskRecord]
) -> None:
    function = state.functions.get(call.function)
    known = [made.get(key) for key in call.dependencies]
    if function is None or call.key in state.tasks or None in known:
        state.counters["unplanned"] += 1
        return
    options = msgspec.convert(call.options, TaskOptions) if call.options is not None else None
    pool = placement.pool_for(state, options)
    state.sequence = state.graphs.leave(state.sequence)
    task = state.add_task(call.key, function.kind, function, call.args, tuple(known), pool)  # type: ignore[arg-type]
    made[call.key] = task
    keeping.keep(state, task)
    if task.wanted_by is None:
        task.add_client(state.detached)
    if call.conditions is not None:
        agree(state, task, call.conditions)
    if not call.dependencies:
        terms_of(task).deals_with = failure
    state.begun.append(task)


# -- waiting for what isn't there yet ---------------------------------------------------------------------------------


def expect(state: SchedulerState, client: ClientRecord, message: Await, known: Any) -> None:
    """A client wants keys that may come later; ``known`` takes those that are there."""
    for key in message.keys:
        task = state.tasks.get(key)
        if task is not None:
            known(state, client, task)
        else:
            state.expected.setdefault(key, {})[client] = message.sought
            if state.shelf is not None:
                shelving.seek(state, [key])


def sought(state: SchedulerState, client: ClientRecord, key: Key) -> None:
    """The shelf was looked at: who still waits for the key waits for nothing."""
    if client in state.expected.get(key, ()):
        recording.accepted(state, client, Release([key]))
        expect_no_more(state, client, [key])
        text = "its task is not known; it was released or cancelled"
        state.send(client.client_id, KeyCancelled(key, text, "lost"))


def seek_again(state: SchedulerState) -> None:
    """What was asked of the shelf before the scheduler was restarted was answered to nobody."""
    for key, clients in list(state.expected.items()):
        for client, only_there in list(clients.items()):
            then = partial(sought, state, client, key) if only_there else _nothing
            if not shelving.seek(state, [key], then):
                then()


def _nothing() -> None:
    """They go on waiting."""


def expect_no_more(state: SchedulerState, client: ClientRecord, keys: list[Key] | None = None) -> None:
    """The client doesn't want these any more; None: it is gone."""
    for key in list(state.expected) if keys is None else keys:
        clients = state.expected.get(key)
        if clients is not None:
            clients.pop(client, None)
            if not clients:
                del state.expected[key]
