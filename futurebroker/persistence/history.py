"""The process that writes the history: batches come from the scheduler by its standard input, rows leave in bulk.

It is nice to the scheduler (in the sense of nice(1)): where all cores are busy it waits, and what waits is bounded by
who sends. It ends when its input does, which is also how it learns that the scheduler has died.
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
from struct import Struct
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, delete, func, insert, update
from sqlalchemy import select as select_rows

from futurebroker.exceptions import DatabaseError
from futurebroker.persistence import revisions
from futurebroker.persistence.database import is_sqlite, open_engine, reading, writing
from futurebroker.persistence.history_tables import events, runs, snapshots, task_types, tasks

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
_SECONDS_PER_MICRO = 1e-6


class Writer:
    """Writes one scheduler's batches; see the top of this file.

    Args:
        orders: ``url``, ``cluster``, ``host``, ``version``, ``started_at``, ``keep_seconds`` and ``keep_rows``.
    """

    def __init__(self, orders: dict[str, Any]) -> None:
        self._orders = orders
        self._engine: Engine = open_engine(orders["url"])
        self._run = 0
        self._swept_at = time.monotonic()

    def prepare(self) -> None:
        """Make the tables where they are a file's of our own, and this run's row; may be called again.

        Raises:
            DatabaseError: it can't be done now.
        """
        if is_sqlite(self._engine):
            revisions.upgrade(self._engine)
        else:
            revisions.require(self._engine)
        orders = self._orders
        started = orders["started_at"]
        ours = (runs.c.cluster == orders["cluster"]) & (runs.c.started_at == started)
        with writing(self._engine) as connection:
            found = connection.execute(select_rows(runs.c.id).where(ours)).scalar()
            if found is None:
                row = {"cluster": orders["cluster"], "started_at": started, "seen_at": started}
                row |= {"host": orders["host"], "version": orders["version"], "dropped": 0}
                found = connection.execute(insert(runs).values(row).returning(runs.c.id)).scalar_one()
            self._run = int(found)

    def write(self, batches: list[Any]) -> None:
        """Write all of ``batches``, or nothing of them.

        Raises:
            DatabaseError: nothing was written.
        """
        if not self._run:
            self.prepare()
        rows: list[tuple[Any, ...]] = []
        happened: list[dict[str, Any]] = []
        stood: list[dict[str, Any]] = []
        dropped = 0
        for batch_rows, batch_events, _, batch_dropped, batch_snapshots in batches:
            rows += [(self._run, *row[:-1], json.dumps(row[-1]) if row[-1] else "") for row in batch_rows]
            happened += [
                {"run": self._run, "at": at, "kind": kind, "worker": worker, "key": key, "client": client, "text": text}
                for at, kind, worker, key, client, text in batch_events
            ]
            stood += [
                {"run": self._run, "at": at, "worker": worker, "figures": json.dumps(figures)}
                for at, worker, figures in batch_snapshots
            ]
            dropped += batch_dropped
        with writing(self._engine) as connection:
            if rows:
                self._write_rows(connection, rows)
            if happened:
                connection.execute(insert(events), happened)
            if stood:
                connection.execute(insert(snapshots), stood)
            self._add_totals(connection, batches)
            seen = {"seen_at": time.time(), "dropped": runs.c.dropped + dropped}
            connection.execute(update(runs).where(runs.c.id == self._run).values(seen))

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

    def _add_totals(self, connection: Connection, batches: list[Any]) -> None:
        sums: dict[str, list[int]] = {}
        for _, _, totals, _, _ in batches:
            for name, figures in totals.items():
                known = sums.setdefault(name, [0] * len(figures))
                known[:] = map(int.__add__, known, figures)
        now = time.time()
        for name, (finished, failed, cancelled, micros, nbytes) in sums.items():
            mine = (task_types.c.run == self._run) & (task_types.c.type == name)
            grown = {
                "finished": task_types.c.finished + finished, "failed": task_types.c.failed + failed,
                "cancelled": task_types.c.cancelled + cancelled,
                "seconds": task_types.c.seconds + micros * _SECONDS_PER_MICRO,
                "nbytes": task_types.c.nbytes + nbytes, "last_at": now,
            }  # fmt: skip
            if not connection.execute(update(task_types).where(mine).values(grown)).rowcount:
                row = {
                    "run": self._run, "type": name, "finished": finished, "failed": failed, "cancelled": cancelled,
                    "seconds": micros * _SECONDS_PER_MICRO, "nbytes": nbytes, "first_at": now, "last_at": now,
                }  # fmt: skip
                connection.execute(insert(task_types).values(row))

    def sweep(self, *, now: bool = False) -> None:
        """Delete what is older or more than is kept, if it is time for that.

        Raises:
            DatabaseError: it can't be done now.
        """
        if not now and time.monotonic() - self._swept_at < SWEEP_EVERY:
            return
        self._swept_at = time.monotonic()
        keep_seconds, keep_rows = self._orders["keep_seconds"], self._orders["keep_rows"]
        before = time.time() - keep_seconds if keep_seconds else 0.0
        for table, at in ((tasks, tasks.c.ended_at), (events, events.c.at), (snapshots, snapshots.c.at)):
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


class Input:
    """Frames from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._decode = msgspec.msgpack.Decoder().decode
        self.ended = False

    def next(self, timeout: float | None) -> Any | None:
        """The next frame; None when none comes within ``timeout`` seconds (None: ever), or the input has ended."""
        while (frame := self._take()) is None and not self.ended:
            if not select.select([self._descriptor], [], [], timeout)[0]:
                return None
            data = os.read(self._descriptor, 1 << 20)
            self.ended = not data
            self._buffer += data
        return frame

    def _take(self) -> Any | None:
        buffer = self._buffer
        if len(buffer) < HEAD.size:
            return None
        end = HEAD.size + HEAD.unpack_from(buffer)[0]
        if len(buffer) < end:
            return None
        body = bytes(buffer[HEAD.size : end])
        del buffer[:end]
        return self._decode(body)


def serve(source: Input, writer: Writer) -> None:
    """Write what comes until nothing comes any more."""
    trouble = ""
    batches: list[Any] = []
    given_up_at: float | None = None
    while not source.ended or batches:
        if not batches:
            batch = source.next(SWEEP_EVERY)
            while batch is not None:
                batches.append(batch)
                batch = source.next(0.0) if sum(len(one[0]) for one in batches) < ROWS_AT_ONCE else None
        try:
            if batches:
                writer.write(batches)
                batches = []
            writer.sweep()
        except DatabaseError as error:
            if str(error) != trouble:
                logger.error("the history can't be written: %s", error)
            trouble = str(error)
            if source.ended:
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
    os.nice(10)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    source = Input(0)
    orders = source.next(None)
    if orders is not None:
        serve(source, Writer(orders))
