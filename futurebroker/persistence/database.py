"""How the database is opened: SQLite or PostgreSQL, by a URL in any of its spellings; and what its errors mean."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Double,
    Engine,
    cast,
    create_engine,
    event,
    extract,
    func,
    make_url,
    text,
)  # fmt: skip
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from futurebroker.config import hide_password
from futurebroker.exceptions import DatabaseError

#: milliseconds a statement waits for another writer of a SQLite file, unless told otherwise
BUSY_TIMEOUT = 5000
#: seconds to wait for a PostgreSQL server to answer a connection
CONNECT_TIMEOUT = 5

_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgres+psycopg")
_SQLITE = ("sqlite", "sqlite3", "sqlite+pysqlite")


def parse_url(address: str) -> URL:
    """The URL as SQLAlchemy takes it; ``postgres://`` and the names of other drivers mean PostgreSQL by psycopg 3.

    Raises:
        DatabaseError: it is no URL, or of another kind of database.
    """
    scheme, separator, rest = address.strip().partition("://")
    scheme = scheme.lower()
    try:
        if separator and scheme in _POSTGRES:
            return make_url(f"postgresql+psycopg://{rest}")
        if separator and scheme in _SQLITE:
            url = make_url(f"sqlite+pysqlite://{rest}")
            if not url.database or url.database == ":memory:":
                raise DatabaseError(address, "a database in memory survives nothing; name a file: sqlite:///file.db")
            return url.set(database=str(Path(url.database).expanduser()))
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(hide_password(address), str(error)) from error
    raise DatabaseError(
        hide_password(address), "it must be a URL like postgresql://user:password@host/name or sqlite:///file.db"
    )


def open_engine(address: str, *, busy_timeout: int = BUSY_TIMEOUT, **options: Any) -> Engine:
    """An engine for the database at ``address``; it connects at first use.

    Its transactions see what is committed. Those begun by `writing` take SQLite's only writer's place at once, so that
    they can't fail half-way because another has it.

    Args:
        busy_timeout: milliseconds to wait for another writer of a SQLite file.
        options: for `sqlalchemy.create_engine`.

    Raises:
        DatabaseError: the address can't be used.
    """
    url = parse_url(address)
    try:
        if url.get_backend_name() == "sqlite":
            engine = create_engine(url, connect_args={"timeout": busy_timeout / 1000}, **options)
            _prepare_sqlite(engine)
        else:
            arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "application_name": "futurebroker"}
            # A session's settings don't outlive a transaction behind a pooler, nor do prepared statements.
            arguments["prepare_threshold"] = None
            engine = create_engine(url, connect_args=arguments, pool_pre_ping=True, **options)
    except (ImportError, NoSuchModuleError) as error:
        raise DatabaseError(hide_password(address), f"{error}; install futurebroker[postgres]") from error
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we begin transactions ourselves
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; committed at the end, rolled back if the block raises.

    Raises:
        DatabaseError: what the database said, in words.
    """
    # Rows that an insert made are not counted otherwise.
    options = {"writes": True, "preserve_rowcount": True}
    with explaining(engine), engine.connect().execution_options(**options) as connection:
        try:
            with connection.begin():
                yield connection
        except (DBAPIError, _driver_error(engine)) as error:
            if not isinstance(error, IntegrityError):
                # A session that may only read stays so when the server writes again.
                connection.invalidate()
            raise


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads.

    Raises:
        DatabaseError: what the database said, in words.
    """
    with explaining(engine), engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def explaining(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors into `DatabaseError`."""
    try:
        yield
    except (SQLAlchemyError, _driver_error(engine)) as error:
        raise explain(engine, error) from error


def _driver_error(engine: Engine) -> type[Exception]:
    """What the driver itself raises, where it is used past SQLAlchemy."""
    error: type[Exception] = engine.dialect.loaded_dbapi.Error
    return error


def explain(engine: Engine, error: Exception) -> DatabaseError:
    """What the database said, without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = " ".join(str(cause).split()) or type(error).__name__
    lower = said.lower()
    hint = next((hint for sign, hint in _HINTS.items() if sign in lower), "")
    return DatabaseError(shown(engine), said + (f"; {hint}" if hint else ""))


#: what a driver says -> what to do
_HINTS = {
    "database is locked": "another process writes to it; it is tried again",
    "disk is full": "free space on its disk; work goes on by itself then",
    "no space left": "free space on its disk; work goes on by itself then",
    "readonly database": "make the file and its folder writable for this user",
    "read-only transaction": "connect to the primary server, not to a replica",
    "unable to open database file": "make its folder, and make it writable for this user",
    "file is not a database": "name another file, this one holds something else",
    "no such table": "make the tables with: futurebroker db upgrade",
    "does not exist": "check the name in the URL; tables are made with: futurebroker db upgrade",
    "password authentication failed": "check user and password in the URL",
    "connection refused": "start the server, or correct the URL",
}


def shown(engine: Engine) -> str:
    """The engine's URL without its password."""
    return engine.url.render_as_string(hide_password=True).replace("+psycopg", "").replace("+pysqlite", "")


def is_sqlite(engine: Engine) -> bool:
    """Whether it is a SQLite file, and not PostgreSQL."""
    return engine.dialect.name == "sqlite"


def clock(engine: Engine) -> ColumnElement[float]:
    """An expression for now, in seconds since 1970 by the database's clock."""
    if is_sqlite(engine):
        return (func.julianday("now", type_=Double) - 2440587.5) * 86400.0
    return cast(extract("epoch", func.clock_timestamp()), Double)


def server_version(engine: Engine) -> str:
    """What answers, for people."""
    with reading(engine) as connection:
        if is_sqlite(engine):
            return f"SQLite {connection.execute(text('SELECT sqlite_version()')).scalar_one()}"
        return f"PostgreSQL {connection.execute(text('SHOW server_version')).scalar_one()}"
