"""The table of kept results that have left a scheduler's memory: written, looked up by key, and emptied of the old."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Engine, and_, bindparam, delete, exists, func, insert, literal, select

from futurebroker.exceptions import LeadershipLostError
from futurebroker.persistence.database import reading, shown, writing
from futurebroker.persistence.models import kept_results, lease
from futurebroker.protocol.wire import Seal
from futurebroker.types import Key

#: rows looked up, and deleted, at a time
ROWS_READ = 200
ROWS_DELETED = 500


class KeptResults:
    """The rows of one cluster, written and deleted only while ``epoch`` leads; used from one thread at a time.

    Every method raises `DatabaseError` if the database can't be used.
    """

    def __init__(self, engine: Engine, cluster: str, epoch: int, seal: Seal) -> None:
        self._engine = engine
        self._cluster = cluster
        self._epoch = epoch
        self._seal = seal
        table = kept_results
        row = select(
            literal(cluster), bindparam("new_name"), bindparam("new_end", type_=table.c.ends_at.type),
            bindparam("new_body", type_=table.c.body.type),
        ).where(self._leads())  # fmt: skip
        self._insert = insert(table).from_select(["cluster", "name", "ends_at", "body"], row)

    def write(self, rows: Iterable[tuple[Key, float, bytes]]) -> None:
        """Keep these (key, seconds since 1970 until which, body), all or none; in place of what was there."""
        made: list[dict[str, Any]] = [
            {"new_name": _name(key), "new_end": until, "new_body": self._seal.close(self._place(key), body)}
            for key, until, body in rows
        ]
        with writing(self._engine) as connection:
            self._remove(connection, [row["new_name"] for row in made])
            for row in made:
                if connection.execute(self._insert, row).rowcount != 1:
                    raise LeadershipLostError(shown(self._engine), f"another scheduler leads cluster {self._cluster}")

    def read(self, keys: Iterable[Key]) -> list[bytes]:
        """The bodies of those that are there, and whose time hasn't come. Raises SignatureError as well."""
        names = {_name(key): key for key in keys}
        found: list[bytes] = []
        every = list(names)
        table = kept_results
        for start in range(0, len(every), ROWS_READ):
            query = select(table.c.name, table.c.body).where(
                and_(
                    table.c.cluster == self._cluster,
                    table.c.name.in_(every[start : start + ROWS_READ]),
                    table.c.ends_at > time.time(),
                )
            )
            with reading(self._engine) as connection:
                rows = connection.execute(query).all()
            found += [bytes(self._seal.open(self._place(names[row.name]), row.body)) for row in rows]
        return found

    def delete(self, keys: Iterable[Key]) -> None:
        """These are not kept any more."""
        with writing(self._engine) as connection:
            self._remove(connection, [_name(key) for key in keys])

    def sweep(self) -> int:
        """Delete a part of those whose time has come; how many that were."""
        table = kept_results
        old = (
            select(table.c.name)
            .where(and_(table.c.cluster == self._cluster, table.c.ends_at <= time.time()))
            .limit(ROWS_DELETED)
        )
        with reading(self._engine) as connection:
            names = list(connection.execute(old).scalars())
        if names:
            with writing(self._engine) as connection:
                self._remove(connection, names)
        return len(names)

    def count(self) -> int:
        """How many there are."""
        query = select(func.count()).where(kept_results.c.cluster == self._cluster)
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _remove(self, connection: Connection, names: list[str]) -> None:
        table = kept_results
        for start in range(0, len(names), ROWS_DELETED):
            some = table.c.name.in_(names[start : start + ROWS_DELETED])
            connection.execute(delete(table).where(and_(table.c.cluster == self._cluster, some, self._leads())))

    def _leads(self) -> exists:  # type: ignore[valid-type]
        return exists().where(and_(lease.c.cluster == self._cluster, lease.c.epoch == self._epoch))

    def _place(self, key: Key) -> str:
        return f"the kept result of {key} of cluster {self._cluster}"


def _name(key: Key) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
