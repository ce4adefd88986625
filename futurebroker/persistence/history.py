"""The process that writes the history: batches come from the scheduler by its standard input, rows leave in bulk.

It comes after all others: where all cores are busy it waits, and what waits is bounded by who sends. It ends when its
input does, which is also how it learns that the scheduler has died.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from pathlib import Path
from struct import Struct
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Double, Engine, bindparam, case, cast, delete, func, insert, update
from sqlalchemy import select as select_rows

from futurebroker.exceptions import DatabaseError
from futurebroker.persistence import revisions
from futurebroker.persistence.database import is_sqlite, open_engine, reading, writing
from futurebroker.persistence.history_tables import events, graphs, notes, runs, snapshots, task_types, tasks
from futurebroker.persistence.models import workers
from futurebroker.protocol.history import (
    Batch,
    Came,
    Ended,
    GraphEnds,
    HistoryOrders,
    Submitted,
    TypeTotals,
    add_finished,
    add_graphs,
)

logger = logging.getLogger("futurebroker.history")

HEAD = Struct(">I")  #: bytes of a frame before its body: how long that is
#: rows that one transaction takes in, at the least as long as more is there
ROWS_AT_ONCE = 20_000
#: seconds between attempts while the database can't be written, and for how long after the input has ended
RETRY_EVERY = 1.0
LAST_TRIES = 5.0
#: seconds between looks at what is too old, and rows deleted in one transaction then
SWEEP_EVERY = 60.0
SWEPT_AT_ONCE = 20_000

_COLUMNS = [column.name for column in tasks.columns if column.name != "id"]
#: characters of a type's name that are kept
NAME_MOST = 200

#: types that are told of a graph, those of which it has most
TYPES_MOST = 100


def _moment(name: str) -> ColumnElement[Any]:
    # PostgreSQL doesn't guess what a parameter is that is only compared.
    return cast(bindparam(name, type_=Double), Double)


def _earlier(known: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    """The first of two moments, either of which may be missing."""
    told = _moment(name)
    return case((known.is_(None), told), (told.is_(None), known), (told < known, told), else_=known)


#: adds what tasks came to; of a graph that is too old to be known nothing is kept
_ADD_ENDS = (
    update(graphs)
    .where(graphs.c.cluster == bindparam("of"), graphs.c.graph == bindparam("which"))
    .values(
        finished=graphs.c.finished + bindparam("more_finished"),
        failed=graphs.c.failed + bindparam("more_failed"),
        cancelled=graphs.c.cancelled + bindparam("more_cancelled"),
        started_at=_earlier(graphs.c.started_at, "more_started"),
        failed_at=_earlier(graphs.c.failed_at, "more_failed_at"),
        ended_at=case(
            (graphs.c.ended_at > _moment("more_ended"), graphs.c.ended_at),
            else_=_moment("more_ended"),
        ),
    )
)

_Frame = TypeVar("_Frame")


class Writer:
    """Writes one scheduler's batches; see the top of this file.

    Args:
        orders: where, of whom, and how much is kept.
    """

    def __init__(self, orders: HistoryOrders) -> None:
        self._orders = orders
        self._engine: Engine = open_engine(orders.url)
        self._run = 0
        self._swept_at = time.monotonic()

    def prepare(self) -> None:
        """Make the tables where they are a file's of our own, and this run's row; may be called again.

        Raises:
            DatabaseError: it can't be done now.
        """
        if is_sqlite(self._engine):
            with contextlib.suppress(OSError):  # the database's own error says more
                Path(str(self._engine.url.database)).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # It begins to write late where all cores are busy, and may be started again at any time.
        revisions.prepare(self._engine, or_later=True)
        orders = self._orders
        started = orders.started_at
        ours = (runs.c.cluster == orders.cluster) & (runs.c.started_at == started)
        with writing(self._engine) as connection:
            found = connection.execute(select_rows(runs.c.id).where(ours)).scalar()
            if found is None:
                row = {
                    "cluster": orders.cluster, "started_at": started, "seen_at": started, "host": orders.host,
                    "version": orders.version, "dropped": 0,
                }  # fmt: skip
                found = connection.execute(insert(runs).values(row).returning(runs.c.id)).scalar_one()
                # Those that are still there join again; when the others left nobody saw.
                before = (workers.c.cluster == orders.cluster) & workers.c.left_at.is_(None)
                connection.execute(update(workers).where(before).values(left_at=started))
            self._run = int(found)

    def write(self, batches: list[Batch]) -> None:
        """Write all of ``batches``, or nothing of them.

        Raises:
            DatabaseError: nothing was written.
        """
        if not self._run:
            self.prepare()
        run = self._run
        rows = [_row(run, ended) for batch in batches for ended in batch.rows]
        happened = [{"run": run, **msgspec.structs.asdict(event)} for batch in batches for event in batch.events]
        stood = [
            {"run": run, "at": one.at, "worker": one.worker, "figures": json.dumps(one.figures)}
            for batch in batches
            for one in batch.snapshots
        ]
        noted = [{"run": run, **msgspec.structs.asdict(note)} for batch in batches for note in batch.notes]
        with writing(self._engine) as connection:
            if rows:
                self._write_rows(connection, rows)
            if happened:
                connection.execute(insert(events), happened)
            if stood:
                connection.execute(insert(snapshots), stood)
            if noted:
                connection.execute(
                    insert(notes), noted if is_sqlite(self._engine) else [_storable(row) for row in noted]
                )
            self._add_totals(connection, batches)
            self._write_graphs(connection, batches)
            for came in [one for batch in batches for one in batch.workers]:
                self._write_worker(connection, came)
            dropped = sum(batch.dropped for batch in batches)
            seen = {"seen_at": time.time(), "dropped": runs.c.dropped + dropped}
            connection.execute(update(runs).where(runs.c.id == run).values(seen))

    def _write_rows(self, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        names = ", ".join(_COLUMNS)
        if is_sqlite(self._engine):
            marks = ", ".join("?" for _ in _COLUMNS)
            connection.exec_driver_sql(f"INSERT INTO tasks ({names}) VALUES ({marks})", rows)
            return
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY tasks ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row([value.replace("\0", "") if isinstance(value, str) else value for value in row])

    def _add_totals(self, connection: Connection, batches: list[Batch]) -> None:
        sums: dict[str, TypeTotals] = {}
        for batch in batches:
            for name, totals in batch.totals.items():
                sums.setdefault(name, TypeTotals()).add(totals)
            add_finished(sums, batch.rows)
        now = time.time()
        for name, totals in sums.items():
            figures = {
                "finished": totals.finished, "failed": totals.failed, "cancelled": totals.cancelled,
                "seconds": totals.micros * 1e-6, "nbytes": totals.nbytes,
            }  # fmt: skip
            mine = (task_types.c.run == self._run) & (task_types.c.type == name)
            grown = {column: task_types.c[column] + value for column, value in figures.items()}
            if not connection.execute(update(task_types).where(mine).values(**grown, last_at=now)).rowcount:
                row = {"run": self._run, "type": name, **figures, "first_at": now, "last_at": now}
                connection.execute(insert(task_types).values(row))

    def _write_graphs(self, connection: Connection, batches: list[Batch]) -> None:
        grown = {one.graph: one for batch in batches for one in batch.graphs}
        for one in grown.values():
            self._write_graph(connection, one)
        ends: dict[str, GraphEnds] = {}
        for batch in batches:
            add_graphs(ends, batch.rows, batch.spans)
            for graph, more in batch.ends.items():
                ends.setdefault(graph, GraphEnds()).add(more)
        if ends:
            connection.execute(
                _ADD_ENDS,
                [
                    {
                        "of": self._orders.cluster,
                        "which": graph,
                        **{f"more_{name}": value for name, value in msgspec.structs.asdict(one).items()},
                    }
                    for graph, one in ends.items()
                ],
            )

    def _write_graph(self, connection: Connection, one: Submitted) -> None:
        common = sorted(one.types.items(), key=lambda entry: -entry[1])[:TYPES_MOST]
        about = {
            "client": one.client.replace("\0", "")[:NAME_MOST], "extended_at": one.extended_at,
            "tasks": sum(one.types.values()), "types": json.dumps(dict(common)),
        }  # fmt: skip
        mine = (graphs.c.cluster == self._orders.cluster) & (graphs.c.graph == one.graph)
        if not connection.execute(update(graphs).where(mine).values(about)).rowcount:
            row = {"cluster": self._orders.cluster, "graph": one.graph, "run": self._run, "submitted_at": one.at}
            connection.execute(insert(graphs).values({**row, **about}))

    def _write_worker(self, connection: Connection, came: Came) -> None:
        key = {"cluster": self._orders.cluster, "worker": came.worker[:NAME_MOST]}
        about = {
            "name": came.name.replace("\0", "")[:NAME_MOST], "host": came.host.replace("\0", "")[:NAME_MOST],
            "about": json.dumps(came.about), "left_at": came.at if came.gone else None,
        }  # fmt: skip
        mine = (workers.c.cluster == key["cluster"]) & (workers.c.worker == key["worker"])
        if not connection.execute(update(workers).where(mine).values(about)).rowcount:
            connection.execute(insert(workers).values({**key, **about, "joined_at": came.at}))

    def sweep(self, *, now: bool = False) -> None:
        """Delete what is older or more than is kept, if it is time for that.

        Raises:
            DatabaseError: it can't be done now.
        """
        if not now and time.monotonic() - self._swept_at < SWEEP_EVERY:
            return
        self._swept_at = time.monotonic()
        keep_seconds, keep_rows = self._orders.keep_seconds, self._orders.keep_rows
        before = time.time() - keep_seconds if keep_seconds else 0.0
        aging = (
            (tasks, tasks.c.ended_at), (events, events.c.at), (snapshots, snapshots.c.at), (notes, notes.c.at),
            (graphs, graphs.c.submitted_at),
        )  # fmt: skip
        for table, at in aging:
            with reading(self._engine) as connection:
                last = connection.execute(select_rows(func.max(table.c.id))).scalar() or 0
                aged = connection.execute(select_rows(func.max(table.c.id)).where(at < before)).scalar() or 0
                first = connection.execute(select_rows(func.min(table.c.id))).scalar() or 0
            until = max(aged, last - keep_rows if keep_rows else 0)
            while first <= until:
                first = min(first + SWEPT_AT_ONCE, until + 1)
                with writing(self._engine) as connection:
                    connection.execute(delete(table).where(table.c.id < first))
        with writing(self._engine) as connection:
            old = select_rows(runs.c.id).where((runs.c.seen_at < before) & (runs.c.id != self._run))
            connection.execute(delete(workers).where(workers.c.left_at < before))
            connection.execute(delete(task_types).where(task_types.c.run.in_(old)))
            connection.execute(delete(runs).where((runs.c.seen_at < before) & (runs.c.id != self._run)))

    def end(self) -> None:
        """The scheduler has ended.

        Raises:
            DatabaseError: that could not be written.
        """
        if self._run:
            with writing(self._engine) as connection:
                ended = {"ended_at": time.time(), "seen_at": time.time()}
                connection.execute(update(runs).where(runs.c.id == self._run).values(ended))
        self._engine.dispose()


def _seconds(micros: int | None) -> float | None:
    return None if micros is None else micros * 1e-6


def _row(run: int, ended: Ended) -> tuple[Any, ...]:
    """In the order of `_COLUMNS`."""
    return (
        run, ended.key, ended.type[:NAME_MOST], ended.outcome, ended.worker, ended.executor, ended.client,
        ended.attempts, ended.submitted, _seconds(ended.started), ended.ended, _seconds(ended.duration), ended.nbytes,
        ended.result_type[:NAME_MOST], ended.error_type[:NAME_MOST], ended.error, ended.traceback,
        json.dumps(ended.inputs) if ended.inputs else "",
    )  # fmt: skip


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    """Text without what PostgreSQL doesn't take."""
    return {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in row.items()}


class Input:
    """Frames from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self.ended = False

    def next(self, kind: type[_Frame], timeout: float | None) -> _Frame | None:
        """The next frame; None when none comes within ``timeout`` seconds (None: ever), or the input has ended."""
        while (body := self._take()) is None:
            if self.ended or not select.select([self._descriptor], [], [], timeout)[0]:
                return None
            data = os.read(self._descriptor, 1 << 20)
            self.ended = not data
            self._buffer += data
        return msgspec.msgpack.decode(body, type=kind)

    def is_abandoned(self) -> bool:
        """Whether nobody can write to it any more, though what was written may not have been read."""
        poll = select.poll()
        poll.register(self._descriptor, 0)
        return self.ended or bool(poll.poll(0))

    def _take(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < HEAD.size:
            return None
        end = HEAD.size + HEAD.unpack_from(buffer)[0]
        if len(buffer) < end:
            return None
        body = bytes(buffer[HEAD.size : end])
        del buffer[:end]
        return body


def serve(source: Input, writer: Writer) -> None:
    """Write what comes until nothing comes any more."""
    trouble = ""
    batches: list[Batch] = []
    given_up_at: float | None = None
    while not source.ended or batches:
        if not batches:
            batch = source.next(Batch, SWEEP_EVERY)
            while batch is not None:
                batches.append(batch)
                batch = source.next(Batch, 0.0) if sum(len(one.rows) for one in batches) < ROWS_AT_ONCE else None
        try:
            if batches:
                writer.write(batches)
                batches = []
            writer.sweep()
        except DatabaseError as error:
            if str(error) != trouble:
                logger.error("the history can't be written: %s", error)
            trouble = str(error)
            if source.is_abandoned():
                given_up_at = given_up_at or time.monotonic() + LAST_TRIES
                if time.monotonic() > given_up_at:
                    return
            time.sleep(RETRY_EVERY)
        else:
            if trouble:
                logger.warning("the history is written again")
            trouble = ""
    with contextlib.suppress(DatabaseError):
        writer.end()


def main() -> None:
    """Serve standard input, whose first frame holds the orders."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end of the input says when
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    source = Input(0)
    orders = source.next(HistoryOrders, None)
    if orders is not None:
        serve(source, Writer(orders))
