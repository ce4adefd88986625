"""Kept results leave the scheduler's memory for a table of their own, and come back when somebody asks (sans-IO).

A result leaves once it has ended, its key can't come again (`TaskOptions.leaves`), and nothing but its promise to be
kept wants it: after `Policy.results_leave` seconds, or earlier when more than `Policy.results_kept` wait so. Its row is
written first; when it is there, the fact `Shelved` is noted and the record goes. So a crash in between leaves both, and
what is in memory counts. Whatever asks for an unknown key waits until the shelf has been looked at; what is found
there is noted as a fact, with its row. Who is told to keep a result no longer has the row deleted as well.

A failure that depended on nothing leaves with its call, and can be retried when it is back.

What is too large for the journal stays as a record: its value lies in an archive, which frees what no record needs.
Without a shelf the oldest beyond the bound are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from futurebroker.protocol.facts import Shelved, Unshelved
from futurebroker.protocol.messages import Failure, KeyErred, KeyFinished, TaskOptions
from futurebroker.scheduler import keeping, placement
from futurebroker.scheduler.records import FunctionRecord, TaskRecord
from futurebroker.scheduler.state import ERRED, KEPT, MEMORY, UNFINISHED, SchedulerState
from futurebroker.scheduler.termrows import TermsRow, row_of_terms, take_terms
from futurebroker.types import Digest, Key

#: what messages to the shelf are sent to
SHELF = "shelf:results"
#: seconds between looks at what may leave, and after the shelf could not write
LOOK_EVERY = 0.25
AGAIN = 10.0
#: rows, and about how many bytes, that are written at a time
ROWS = 256
ROW_BYTES = 1024 * 1024
#: bytes of a failed task's function and arguments that leave with it
CALL_BYTES = 64 * 1024


class Row(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """A result that has left."""

    key: Key
    kind: str
    options: TaskOptions
    ended: float  #: seconds since 1970
    nbytes: int = 0
    value: bytes | None = None
    failure: Failure | None = None
    terms: TermsRow | None = None
    #: of a failure that can be retried: its function's digest and code, and its arguments
    call: tuple[Digest, bytes, bytes] | None = None


class Shelve(msgspec.Struct, gc=False):
    """To the shelf: write these rows, with the keys and the times (seconds since 1970) until which they are kept."""

    rows: list[tuple[Key, float, bytes]]


class Seek(msgspec.Struct, gc=False):
    """To the shelf: say which of these are there."""

    number: int
    keys: list[Key]


class Drop(msgspec.Struct, gc=False):
    """To the shelf: these need not be kept."""

    keys: list[Key]


class Written(msgspec.Struct, gc=False):
    """From the shelf: all of a `Shelve` is there; with ``trouble`` none of it."""

    keys: list[Key]
    trouble: str = ""


class Sought(msgspec.Struct, gc=False):
    """From the shelf: what is there of a `Seek`."""

    number: int
    rows: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Row).decode


# -- leaving ---------------------------------------------------------------------------------------------------------


def may_leave(state: SchedulerState, task: TaskRecord) -> bool:
    """Whether nothing but the promise to keep it needs the record."""
    return (
        task.wanted_by is state.kept
        and task.dependents is None
        and task.state not in UNFINISHED
        and task.pool.options.leaves
        and state.tasks.get(task.key) is task
        and task.key not in state.families
        and task not in state.untold
        and (state.shelf is None or task.value is not None or task.state is ERRED)
    )


def look(state: SchedulerState) -> None:
    """Let go of what has waited for long, or is too much; called after an event, now and then."""
    state.leave_at = state.now + LOOK_EVERY
    shelf, leaving = state.shelf, state.leaving
    if state.replaying or state.holding or (shelf is not None and shelf.leaving):
        return
    surplus = len(leaving) - state.policy.results_kept
    before = state.now - state.policy.results_leave
    rows: list[tuple[Key, float, bytes]] = []
    size = 0
    while leaving and (surplus > 0 or (shelf is not None and leaving[0][0] <= before)):
        surplus -= 1
        _, task = leaving.popleft()
        if not may_leave(state, task):
            continue
        if shelf is None:
            state.counters["results dropped"] += 1
            _take_off(state, task)
        elif task.key not in shelf.leaving:
            until = task.span + state.clock_offset + keeping.seconds_of(state, task)
            row = _encode(_row(state, task))
            shelf.leaving[task.key] = (task, task.attempt)
            rows.append((task.key, until, row))
            size += len(row)
            if len(rows) >= ROWS or size >= ROW_BYTES:
                state.leave_at = state.now  # go on when these are written
                break
    if rows:
        _tell(state, Shelve(rows))


def _row(state: SchedulerState, task: TaskRecord) -> Row:
    terms = None if task.terms is None else row_of_terms(state, task, task.terms)
    ended = task.span + state.clock_offset
    value = task.value if task.state is MEMORY else None
    failure, function, call = task.failure, task.function, None
    if failure is not None and function is not None and not task.dependencies:
        if len(function.code) + len(task.args) <= CALL_BYTES:
            call = function.digest, function.code, task.args
    return Row(task.key, task.kind.name, task.pool.options, ended, task.nbytes, value, failure, terms, call)


def _written(state: SchedulerState, message: Written) -> None:
    """What has not changed meanwhile goes."""
    assert state.shelf is not None
    known, state.shelf.leaving = state.shelf.leaving, {}
    gone: list[Key] = []
    for key, (task, attempt) in known.items():
        if message.trouble:
            state.leaving.appendleft((state.now, task))
        elif may_leave(state, task) and task.attempt == attempt:
            gone.append(key)
    if message.trouble:
        state.leave_at = state.now + AGAIN
    elif gone:
        if state.facts is not None:
            state.facts.append(Shelved(state.now, gone))
        state.counters["results shelved"] += len(gone)
        put_away(state, gone)


def put_away(state: SchedulerState, keys: Iterable[Key]) -> None:
    """These are on the shelf: their records go."""
    for key in keys:
        task = state.tasks.get(key)
        if task is not None:
            _take_off(state, task)


def _take_off(state: SchedulerState, task: TaskRecord) -> None:
    line = state.ended.get(keeping.seconds_of(state, task))
    if line is not None:
        line.discard(task.span, task)
    keeping.forget(state, task)


def _tell(state: SchedulerState, words: Any) -> None:
    """The shelf is a party inside this process: what it is told doesn't travel, and need not be a message."""
    state.send(SHELF, words)


def drop(state: SchedulerState, keys: list[Key]) -> None:
    """Who has a say in it doesn't want these kept."""
    if state.shelf is not None and not state.replaying and keys:
        _tell(state, Drop(list(keys)))


# -- coming back -----------------------------------------------------------------------------------------------------


def _nothing() -> None:
    """Whoever waits for the keys is told as they come."""


def seek(state: SchedulerState, keys: Any, then: Callable[[], None] = _nothing) -> bool:
    """Look for those of ``keys`` that aren't known; False if there are none. Else ``then`` is called afterwards."""
    shelf = state.shelf
    if shelf is None or state.replaying or not isinstance(keys, (list, tuple)):
        return False
    missing = [key for key in keys if isinstance(key, str) and key not in state.tasks]
    if not missing:
        return False
    shelf.number += 1
    shelf.sought[shelf.number] = then
    _tell(state, Seek(shelf.number, missing))
    return True


def _found(state: SchedulerState, message: Sought) -> None:
    assert state.shelf is not None
    then = state.shelf.sought.pop(message.number, _nothing)
    if message.rows:
        # Said before it is known which of them are wanted: a replay must come to the same.
        if state.facts is not None:
            state.facts.append(Unshelved(state.now, message.rows))
        take_back(state, message.rows)
    then()


def take_back(state: SchedulerState, rows: Iterable[bytes]) -> None:
    """Results are known again, for at least as long as if they had ended just now; who waits for them is told."""
    for body in rows:
        row = _decode(body)
        if row.key not in state.tasks:
            _restore(state, row)


def _restore(state: SchedulerState, row: Row) -> None:
    waiting = state.expected.pop(row.key, ())
    sequence = state.sequence
    pool, kind = placement.pool_for(state, row.options), state.kind(row.kind)
    function, args = None, b""
    if row.call is not None:
        digest, code, args = row.call
        function = state.functions.get(digest)
        if function is None:
            function = state.functions[digest] = FunctionRecord(digest, code, kind)
    state.drop_claim(row.key)
    task = state.add_task(row.key, kind, function, args, (), pool)
    state.sequence = sequence
    task.add_client(state.holder(KEPT))
    task.span = row.ended - state.clock_offset
    task.nbytes = row.nbytes
    if row.terms is not None:
        take_terms(task, row.terms)
    if row.failure is not None:
        state.move(task, ERRED)
        task.failure = row.failure
    else:
        state.move(task, MEMORY)
        task.value = row.value
    state.counters["results read back"] += 1
    for client in waiting:
        task.add_client(client)
        if row.failure is not None:
            state.send(client.client_id, KeyErred(task.key, row.failure))
        else:
            state.send(client.client_id, KeyFinished(task.key, row.value, None))
    state.look_at(task)


def said(state: SchedulerState, messages: Iterable[Any]) -> None:
    """Apply what the shelf says."""
    if state.shelf is None:
        return
    for message in messages:
        if type(message) is Written:
            _written(state, message)
        else:
            _found(state, message)
