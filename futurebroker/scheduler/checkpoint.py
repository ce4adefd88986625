"""The durable state as rows, and back: what a checkpoint holds in place of the facts that led there (sans-IO).

Where a result lies and what runs where is not part of it, as in the facts; loaded rows have the stand-in of
`SchedulerState.nowhere` in their place. Who keeps more in the state that must survive adds it to `EXTRAS`; plain fields
of a task are named in `FIELDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec

from futurebroker.exceptions import ProtocolError
from futurebroker.protocol.facts import Cursor
from futurebroker.protocol.messages import Failure, TaskOptions
from futurebroker.scheduler import claims, datasets, leases, mailboxes, metadata, placement, standing, transitions
from futurebroker.scheduler.records import ClientRecord, FunctionRecord, Kind, TaskRecord
from futurebroker.scheduler.resuming import adopt
from futurebroker.scheduler.state import (
    ERRED,
    MEMORY,
    NO_WORKER,
    PROCESSING,
    RELEASED,
    SchedulerState,
)
from futurebroker.types import ClientId, Digest, Key

#: of the rows; a checkpoint of another version is refused
VERSION = 1
#: fields of a task that are written and read as they are
FIELDS = ("order", "nbytes", "retried", "deaths")
#: more that must survive: name -> (what to write, how to take it in again after tasks and clients)
EXTRAS: dict[str, tuple[Callable[[SchedulerState], Any], Callable[[SchedulerState, Any], None]]] = {
    "leases": (leases.dump, leases.load),
    "mailboxes": (mailboxes.dump, mailboxes.load),
    "datasets": (datasets.dump, datasets.load),
    "metadata": (metadata.dump, metadata.load),
    "standing": (standing.dump, standing.load),
}
#: rows, and about how many bytes, that stand in one part
PART_ROWS = 4096
PART_BYTES = 1024 * 1024


def _restore_detachers(state: SchedulerState, rows: dict[Key, list[ClientId]]) -> None:
    for key, names in rows.items():
        state.detachers[state.tasks[key]] = {state.clients[name]: None for name in names if name in state.clients}


def _restore_kept(state: SchedulerState, rows: dict[Key, list[Key]]) -> None:
    for parent, kept in rows.items():
        state.families[parent].info["kept"] = kept


EXTRAS["detachers"] = (
    lambda state: {task.key: [one.client_id for one in clients] for task, clients in state.detachers.items()},
    _restore_detachers,
)
EXTRAS["kept"] = (
    lambda state: {key: family.info["kept"] for key, family in state.families.items() if "kept" in family.info},
    _restore_kept,
)


class Row(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """Base of all rows; rows name each other by their place in their section."""


class Head(Row):
    """What all rows have in common; the first of all."""

    version: int
    at: float  #: when the newest of the facts happened, in seconds since 1970
    sequence: int  #: order numbers given out
    fields: tuple[str, ...]
    epoch: int = 0  #: of the newest of the facts
    base: float = 0.0  #: what the clock of that epoch has to be put forward by to show seconds since 1970


class KindRow(Row):
    """Statistics of a name."""

    name: str
    duration: float | None
    ended: int
    errors: int


class FunctionRow(Row):
    """A function."""

    digest: Digest
    kind: int
    code: bytes


class ClientRow(Row):
    """A client, and the functions it may name; the one without a name is `SchedulerState.detached`."""

    client: ClientId
    functions: list[int]
    holder: str = ""  #: see `SchedulerState.holders`


class TaskRow(Row):
    """A task; its dependencies stand before it."""

    key: Key
    kind: int
    function: int  #: -1 for scattered data
    args: bytes
    options: int
    state: str  #: released, open, begun (must not run twice), kept, held, erred, coming (data on its way), awaited
    fields: tuple[Any, ...]
    dependencies: tuple[int, ...] = ()
    wanted_by: tuple[int, ...] = ()
    value: bytes | None = None
    failure: Failure | None = None
    broadcast: bool = False
    attempt: int = 0  #: of a task that must not run twice


_SECTIONS: dict[str, Any] = {
    "head": list[Head],
    "kinds": list[KindRow],
    "functions": list[FunctionRow],
    "options": list[TaskOptions],
    "clients": list[ClientRow],
    "tasks": list[TaskRow],
    "extras": list[tuple[str, Any]],
    "cursors": list[Cursor],
}
_encode = msgspec.msgpack.Encoder().encode
_part = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
_decoders = {name: msgspec.msgpack.Decoder(kind) for name, kind in _SECTIONS.items()}


# -- writing -------------------------------------------------------------------------------------------------------


def dump(state: SchedulerState, epoch: int = 0, base: float = 0.0, cursors: Iterable[Cursor] = ()) -> Iterator[bytes]:
    """The parts of a checkpoint; ``state`` must not change before the last was taken.

    Args:
        epoch, base: see `Head`.
        cursors: of the sessions that the facts leave.
    """
    for section, rows in (*rows_of(state, epoch, base), ("cursors", iter(cursors))):
        while batch := _batch(rows):
            yield _encode((section, batch))


def _batch(rows: Iterator[Any]) -> list[Any]:
    batch: list[Any] = []
    size = 0
    for row in islice(rows, PART_ROWS):
        batch.append(row)
        if type(row) is TaskRow:
            size += len(row.args) + len(row.value or b"")
        elif type(row) is FunctionRow:
            size += len(row.code)
        if size >= PART_BYTES:
            break
    return batch


def rows_of(state: SchedulerState, epoch: int = 0, base: float = 0.0) -> Iterator[tuple[str, Iterator[Any]]]:
    """All sections, in order."""
    kinds = {kind: place for place, kind in enumerate(state.kinds.values())}
    functions = {function: place for place, function in enumerate(state.functions.values())}
    pools = {pool: place for place, pool in enumerate(state.pools.values())}
    known = (state.detached, *state.clients.values(), *state.holders.values())
    clients = {client: place for place, client in enumerate(known)}
    yield "head", iter([Head(VERSION, state.now, state.sequence, FIELDS, epoch, base)])
    yield "kinds", (KindRow(kind.name, kind.duration, kind.ended, kind.errors) for kind in kinds)
    yield "functions", (FunctionRow(one.digest, kinds[one.kind], one.code) for one in functions)
    yield "options", (pool.options for pool in pools)
    yield (
        "clients",
        (
            ClientRow(one.client_id, [functions[state.functions[digest]] for digest in one.functions], one.holds_for)
            for one in clients
        ),
    )
    places: dict[TaskRecord, int] = {}
    yield (
        "tasks",
        (
            _task_row(state, task, places, kinds[task.kind], functions, pools[task.pool], clients)
            for task in in_order(state)
        ),
    )
    yield "extras", ((name, write(state)) for name, (write, _) in EXTRAS.items())


def in_order(state: SchedulerState) -> Iterator[TaskRecord]:
    """All tasks, each after its dependencies.

    They are so in the order in which they became known, but for a key that came again after what depends on it.
    """
    done: set[TaskRecord] = set()
    for first in state.tasks.values():
        stack = [first]
        while stack:
            task = stack[-1]
            missing = [one for one in task.dependencies if one not in done] if task not in done else []
            if missing:
                stack += missing
                continue
            stack.pop()
            if task not in done:
                done.add(task)
                yield task


def _task_row(
    state: SchedulerState,
    task: TaskRecord,
    places: dict[TaskRecord, int],
    kind: int,
    functions: dict[FunctionRecord, int],
    options: int,
    clients: dict[ClientRecord, int],
) -> TaskRow:
    places[task] = len(places)
    return TaskRow(
        task.key,
        kind,
        functions[task.function] if task.function is not None else -1,
        task.args,
        options,
        _state_of(state, task),
        tuple(getattr(task, name) for name in FIELDS),
        tuple(places[one] for one in task.dependencies),
        tuple(sorted(clients[one] for one in task.each_client())),
        task.value,
        task.failure,
        task in state.broadcasts,
        task.attempt if is_begun(task) else 0,
    )


def is_begun(task: TaskRecord) -> bool:
    """Whether the task is at a worker and must not be sent to another."""
    return task.state is PROCESSING and task.pool.options.at_most_once


def _state_of(state: SchedulerState, task: TaskRecord) -> str:
    where = task.state
    if where is MEMORY:
        return "held" if task.value is None else "kept"
    if where is RELEASED or where is ERRED:
        return where.value
    if task.function is not None:
        return "begun" if is_begun(task) else "open"
    return "coming" if where is PROCESSING else "awaited"


# -- reading -------------------------------------------------------------------------------------------------------


class Loader:
    """Takes the parts of a checkpoint in, in order, into a state that `recovery.begin` has prepared.

    Args:
        shift: what seconds since 1970 have to be put forward by to show the time of ``state``.
    """

    def __init__(self, state: SchedulerState, shift: float = 0.0) -> None:
        self._state = state
        self._shift = shift
        self._kinds: list[Kind] = []
        self._functions: list[FunctionRecord] = []
        self._options: list[TaskOptions] = []
        self._clients: list[ClientRecord] = []
        self._tasks: list[TaskRecord] = []
        self._open: list[TaskRecord] = []
        self._begun: dict[TaskRecord, int] = {}
        self._fields: tuple[str, ...] = ()
        self.head: Head | None = None
        self.cursors: dict[str, Cursor] = {}

    def add(self, part: bytes | memoryview) -> None:
        """The next part.

        Raises:
            ProtocolError: it isn't one, or of another version.
        """
        try:
            section, raw = _part.decode(part)
            rows = _decoders[section].decode(raw)
        except (msgspec.DecodeError, KeyError, UnicodeDecodeError) as error:
            raise ProtocolError(f"a checkpoint that can't be read: {error}") from error
        take: Callable[[Any], None] = getattr(self, f"_take_{section}")
        for row in rows:
            take(row)

    def finish(self) -> None:
        """All parts are there: what is not finished is asked for again."""
        state = self._state
        for task in self._open:
            if task.dependencies:
                transitions.released_waiting(state, task)  # what it lacks is among these, or was lost on the way
            else:
                transitions.released_queued(state, task)
        for task, attempt in self._begun.items():
            assert state.nowhere is not None
            adopt(state, task, state.nowhere, attempt)
        state.commands.clear()

    def _take_head(self, row: Head) -> None:
        if row.version != VERSION:
            raise ProtocolError(f"a checkpoint of version {row.version}; this one reads version {VERSION}")
        self.head = row
        self._fields = row.fields
        self._state.sequence = row.sequence
        self._state.now = row.at + self._shift

    def _take_kinds(self, row: KindRow) -> None:
        kind = self._state.kind(row.name)
        kind.duration, kind.ended, kind.errors = row.duration, row.ended, row.errors
        self._kinds.append(kind)

    def _take_functions(self, row: FunctionRow) -> None:
        function = FunctionRecord(row.digest, row.code, self._kinds[row.kind])
        self._state.functions[row.digest] = function
        self._functions.append(function)

    def _take_options(self, row: TaskOptions) -> None:
        self._options.append(row)

    def _take_clients(self, row: ClientRow) -> None:
        if row.client:
            client = self._state.clients[row.client] = ClientRecord(row.client, {})
        else:
            client = self._state.holder(row.holder) if row.holder else self._state.detached
        for place in row.functions:
            function = self._functions[place]
            function.users[client] = None
            client.functions[function.digest] = None
        self._clients.append(client)

    def _take_tasks(self, row: TaskRow) -> None:
        state = self._state
        function = self._functions[row.function] if row.function >= 0 else None
        dependencies = tuple(self._tasks[place] for place in row.dependencies)
        pool = placement.pool_for(state, self._options[row.options])
        sequence = state.sequence
        task = state.add_task(row.key, self._kinds[row.kind], function, row.args, dependencies, pool)
        state.sequence = sequence
        for name, value in zip(self._fields, row.fields):
            setattr(task, name, value)
        for place in row.wanted_by:
            task.add_client(self._clients[place])
        self._tasks.append(task)
        self._place(task, row)

    def _place(self, task: TaskRecord, row: TaskRow) -> None:
        state, stand_in = self._state, self._state.nowhere
        assert stand_in is not None
        if row.broadcast:
            state.broadcasts[task] = None
        if row.state == "kept":
            state.move(task, MEMORY)
            task.value = row.value
        elif row.state == "held":
            state.move(task, MEMORY)
            task.add_holder(stand_in, "")
        elif row.state == "erred":
            state.move(task, ERRED)
            task.failure = row.failure
        elif row.state == "coming":
            transitions.store_on(state, task, stand_in)
        elif row.state == "awaited":
            state.awaited[task] = state.now
            claims.look_after(state, state.now)
            state.move(task, NO_WORKER)
            task.pool.stranded[task] = None
        elif row.state in ("open", "begun"):
            self._open.append(task)
            if row.attempt:
                self._begun[task] = row.attempt

    def _take_extras(self, row: tuple[str, Any]) -> None:
        name, value = row
        if name in EXTRAS:
            EXTRAS[name][1](self._state, value)

    def _take_cursors(self, row: Cursor) -> None:
        self.cursors[row.name] = row


def load(state: SchedulerState, parts: Iterable[bytes | memoryview], shift: float = 0.0) -> Loader:
    """Take a whole checkpoint in, or none if there are no parts; see `Loader`.

    Raises:
        ProtocolError: it can't be read.
    """
    loader = Loader(state, shift)
    for part in parts:
        loader.add(part)
    loader.finish()
    return loader
