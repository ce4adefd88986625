"""What the tables take on disk, and giving back what deleted rows took."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, func, inspect, select, text

from futurebroker.persistence.database import explaining, is_sqlite, reading
from futurebroker.persistence.models import metadata


@dataclass(frozen=True, slots=True)
class Usage:
    """What one table holds."""

    table: str
    rows: int
    nbytes: int  #: of its blobs in SQLite, on disk in PostgreSQL


def usage(engine: Engine) -> list[Usage]:
    """Rows and bytes of each of our tables.

    Raises:
        DatabaseError: they can't be read.
    """
    found = []
    with reading(engine) as connection:
        there = set(inspect(connection).get_table_names())
        for table in metadata.sorted_tables:
            if table.name not in there:
                continue
            rows = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if is_sqlite(engine):
                bodies = [func.coalesce(func.sum(func.length(table.c.body)), 0)] if "body" in table.c else []
                nbytes = int(connection.execute(select(*bodies)).scalar_one()) if bodies else 0
            else:
                name = {"name": table.name}
                nbytes = connection.execute(text("SELECT pg_total_relation_size(:name)"), name).scalar_one()
            found.append(Usage(table.name, rows, nbytes))
    return found


def size(engine: Engine) -> int:
    """Bytes of the whole database.

    Raises:
        DatabaseError: it can't be read.
    """
    with reading(engine) as connection:
        if is_sqlite(engine):
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            return int(pages * connection.execute(text("PRAGMA page_size")).scalar_one())
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def vacuum(engine: Engine) -> tuple[int, int]:
    """Give back disk; returns the bytes before and after.

    Raises:
        DatabaseError: it can't be done, perhaps because somebody writes.
    """
    before = size(engine)
    # Neither database does this inside a transaction.
    with explaining(engine):
        if is_sqlite(engine):
            raw = engine.raw_connection()
            try:
                raw.cursor().execute("VACUUM")
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                raw.close()
        else:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                for table in metadata.sorted_tables:
                    connection.execute(text(f"VACUUM {table.name}"))
    return before, size(engine)
