"""The journal's rows and the checkpoints that replace them, in SQL; what is in them is `protocol.facts`' business.

A row's number is never used twice, and a row is only written while the lease has the writer's epoch, in one statement:
who was thought dead and isn't can write nothing any more. Rows carry signatures for their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import (
    Connection,
    Engine,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from futurebroker.exceptions import LeadershipLostError
from futurebroker.persistence import datasets
from futurebroker.persistence.database import clock, explain, is_sqlite, reading, shown, writing
from futurebroker.persistence.models import checkpoints, journal, lease
from futurebroker.protocol.wire import Seal

#: journal rows read, and deleted, at a time
ROWS_READ = 200
ROWS_DELETED = 500


class Journal:
    """The journal of one cluster, as one leader writes it; used from one thread at a time.

    Args:
        epoch: of the writer's lease.
    """

    def __init__(self, engine: Engine, cluster: str, epoch: int, seal: Seal) -> None:
        self.engine = engine
        self.cluster = cluster
        self.epoch = epoch
        self._seal = seal
        self._connection: Connection | None = None
        made = select(
            literal(cluster),
            bindparam("sequence"),
            lease.c.epoch,
            clock(engine),
            bindparam("body", type_=journal.c.body.type),
        ).where(and_(lease.c.cluster == cluster, lease.c.epoch == epoch))
        if not is_sqlite(engine):
            # A takeover waits for appends that have begun, so that it sees them.
            made = made.with_for_update(read=True)
        self._append = insert(journal).from_select(["cluster", "sequence", "epoch", "made_at", "body"], made)

    # -- writing -----------------------------------------------------------------------------------------------------

    def append(self, sequence: int, body: bytes, published: Mapping[str, datasets.Row | None] | None = None) -> None:
        """Write a row; it survives this process, and with PostgreSQL the machine, once this returns.

        Args:
            published: datasets that the row changes, written with it or not at all.

        Raises:
            LeadershipLostError: somebody else leads.
            DatabaseError: it was not written, or it is not known whether it was: `has` tells.
        """
        blob = self._seal.close(self._place(sequence, self.epoch), body)
        try:
            connection = self._connected()
            with connection.begin():
                done = connection.execute(self._append, {"sequence": sequence, "body": blob})
                if published and done.rowcount == 1:
                    self._publish(connection, published)
        except IntegrityError as error:
            self.disconnect()
            raise self._lost() from error
        except SQLAlchemyError as error:
            self.disconnect()
            raise explain(self.engine, error) from error
        if done.rowcount != 1:
            raise self._lost()

    def _publish(self, connection: Connection, published: Mapping[str, datasets.Row | None]) -> None:
        try:
            datasets.change(connection, self.cluster, published)
        except IntegrityError as error:  # which of the row itself would mean that somebody else leads
            raise explain(self.engine, error) from error

    def has(self, sequence: int, body: bytes) -> bool:
        """Whether this row was written by us, although `append` did not return.

        Raises:
            DatabaseError: it can't be read.
        """
        query = select(journal.c.epoch, journal.c.body).where(
            and_(journal.c.cluster == self.cluster, journal.c.sequence == sequence)
        )
        with reading(self.engine) as connection:
            row = connection.execute(query).one_or_none()
        return row is not None and row.epoch == self.epoch and bytes(row.body[32:]) == body

    def _connected(self) -> Connection:
        if self._connection is None:
            # SQLite's writer's place is taken at once; waiting for it is the caller's business.
            self._connection = self.engine.connect().execution_options(writes=True, preserve_rowcount=True)
        return self._connection

    def disconnect(self) -> None:
        """Let go of the connection; the next append makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _lost(self) -> LeadershipLostError:
        return LeadershipLostError(
            shown(self.engine), f"another scheduler leads cluster {self.cluster}; this one had epoch {self.epoch}"
        )

    def _place(self, sequence: int, epoch: int) -> str:
        return f"row {sequence} of epoch {epoch} in the journal of cluster {self.cluster}"

    # -- reading -----------------------------------------------------------------------------------------------------

    def last(self) -> int:
        """The number of the newest row that there is or was.

        Raises:
            DatabaseError: it can't be read.
        """
        with reading(self.engine) as connection:
            rows = connection.execute(
                select(func.max(journal.c.sequence)).where(journal.c.cluster == self.cluster)
            ).scalar_one()
            folded = connection.execute(
                select(func.max(checkpoints.c.sequence)).where(checkpoints.c.cluster == self.cluster)
            ).scalar_one()
        return max(rows or 0, folded or 0)

    def rows(self, after: int, up_to: int | None = None) -> Iterator[tuple[int, int, memoryview]]:
        """Number, epoch and body of each row after ``after``, oldest first; read a few at a time.

        Raises:
            DatabaseError: they can't be read.
            SignatureError: one was altered.
        """
        while True:
            query = (
                select(journal.c.sequence, journal.c.epoch, journal.c.body)
                .where(and_(journal.c.cluster == self.cluster, journal.c.sequence > after))
                .order_by(journal.c.sequence)
                .limit(ROWS_READ)
            )
            if up_to is not None:
                query = query.where(journal.c.sequence <= up_to)
            with reading(self.engine) as connection:
                found = connection.execute(query).all()
            for row in found:
                yield row.sequence, row.epoch, self._seal.open(self._place(row.sequence, row.epoch), row.body)
            if len(found) < ROWS_READ:
                return
            after = found[-1].sequence

    def size(self, after: int) -> int:
        """Bytes of the rows after ``after``.

        Raises:
            DatabaseError: they can't be read.
        """
        query = select(func.coalesce(func.sum(func.length(journal.c.body)), 0)).where(
            and_(journal.c.cluster == self.cluster, journal.c.sequence > after)
        )
        with reading(self.engine) as connection:
            return int(connection.execute(query).scalar_one())

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint(self) -> tuple[int, int]:
        """The newest complete checkpoint: up to which row it goes, and its bytes; zeros without one.

        Raises:
            DatabaseError: it can't be read.
        """
        complete = (
            select(checkpoints.c.sequence, func.sum(func.length(checkpoints.c.body)).label("nbytes"))
            .where(and_(checkpoints.c.cluster == self.cluster, checkpoints.c.parts > 0))
            .group_by(checkpoints.c.sequence)
            .having(func.count() == func.max(checkpoints.c.parts))
            .order_by(checkpoints.c.sequence.desc())
            .limit(1)
        )
        with reading(self.engine) as connection:
            row = connection.execute(complete).one_or_none()
        return (0, 0) if row is None else (int(row.sequence), int(row.nbytes))

    def parts(self, sequence: int) -> Iterator[memoryview]:
        """The parts of a checkpoint, in order.

        Raises:
            DatabaseError: they can't be read.
            SignatureError: one was altered.
        """
        part = 0
        while True:
            query = select(checkpoints.c.body).where(
                and_(
                    checkpoints.c.cluster == self.cluster,
                    checkpoints.c.sequence == sequence,
                    checkpoints.c.part == part,
                )
            )
            with reading(self.engine) as connection:
                body = connection.execute(query).scalar_one_or_none()
            if body is None:
                return
            yield self._seal.open(self._part_place(sequence, part), body)
            part += 1

    def _part_place(self, sequence: int, part: int) -> str:
        return f"part {part} of the checkpoint {sequence} of cluster {self.cluster}"

    def write_checkpoint(self, sequence: int, parts: Iterable[bytes]) -> None:
        """Replace the rows up to ``sequence`` by what they come to; each part is a transaction of its own.

        Raises:
            LeadershipLostError: somebody else leads.
            DatabaseError: it can't be written; the journal is as it was.
        """
        here = and_(checkpoints.c.cluster == self.cluster, checkpoints.c.sequence == sequence)
        count = 0
        with writing(self.engine) as connection:
            connection.execute(delete(checkpoints).where(here))
        for count, body in enumerate(parts, 1):
            blob = self._seal.close(self._part_place(sequence, count - 1), body)
            made = select(
                literal(self.cluster), literal(sequence), literal(count - 1), literal(0), lease.c.epoch,
                clock(self.engine), literal(blob, checkpoints.c.body.type),
            ).where(and_(lease.c.cluster == self.cluster, lease.c.epoch == self.epoch))  # fmt: skip
            names = ["cluster", "sequence", "part", "parts", "epoch", "made_at", "body"]
            with writing(self.engine) as connection:
                done = connection.execute(insert(checkpoints).from_select(names, made))
            if done.rowcount != 1:
                raise self._lost()
        with writing(self.engine) as connection:
            connection.execute(update(checkpoints).where(here).values(parts=count))
        self.truncate(sequence)

    def truncate(self, sequence: int) -> None:
        """Remove rows and older checkpoints that the checkpoint ``sequence`` stands for; a few at a time.

        Raises:
            DatabaseError: it can't be written; what is left does no harm.
        """
        old = and_(journal.c.cluster == self.cluster, journal.c.sequence <= sequence)
        while True:
            with reading(self.engine) as connection:
                first = connection.execute(select(func.min(journal.c.sequence)).where(old)).scalar_one()
            if first is None:
                break
            with writing(self.engine) as connection:
                connection.execute(delete(journal).where(and_(old, journal.c.sequence < first + ROWS_DELETED)))
        former = and_(checkpoints.c.cluster == self.cluster, checkpoints.c.sequence < sequence)
        with writing(self.engine) as connection:
            connection.execute(delete(checkpoints).where(former))

    def close(self) -> None:
        """Let go of all connections. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self.engine.dispose()
