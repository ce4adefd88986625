"""Addresses of databases as people write them, and what is said about one that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from futurebroker.config import database_of, load_settings
from futurebroker.exceptions import DatabaseError
from futurebroker.persistence import revisions
from futurebroker.persistence.database import open_engine, parse_url


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "POSTGRES", "postgres+psycopg"]
)
def test_postgresql_is_meant_by_each_of_its_names(scheme: str) -> None:
    """Heroku hands out postgres://, tutorials name drivers; whoever pastes one should not have to edit it."""
    url = parse_url(f"{scheme}://user:p%40ss@host:5433/name?sslmode=require")
    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg://user:p%40ss@host:5433/name?sslmode=require"
    )


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite3", "sqlite+pysqlite"])
def test_sqlite_is_meant_by_each_of_its_names(scheme: str) -> None:
    """As for PostgreSQL."""
    assert parse_url(f"{scheme}:///some/file.db").database == "some/file.db"
    assert parse_url(f"{scheme}:////some/file.db").database == "/some/file.db"


@pytest.mark.parametrize("address", ["mysql://h/d", "file.db", "sqlite://", "sqlite:///:memory:", "postgres"])
def test_other_addresses_are_refused_with_what_to_write(address: str) -> None:
    """A database that can't keep anything must not be found out by losing work."""
    with pytest.raises(DatabaseError, match="sqlite:///file.db"):
        parse_url(address)


def test_the_password_of_a_refused_address_is_not_shown() -> None:
    """Errors are logged."""
    with pytest.raises(DatabaseError) as caught:
        parse_url("mysql://user:hunter2@host/name")
    assert "hunter2" not in str(caught.value)


def test_without_an_address_a_file_of_the_cluster_and_its_address_is_used(tmp_path: Path) -> None:
    """Two schedulers on one machine must not meet in one file by accident."""
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    names = {
        database_of(load_settings(environ={}, files=[], **arguments), environ)
        for arguments in ({}, {"port": 1}, {"cluster": "other"}, {"broker_url": "amqp://broker"})
    }
    assert len(names) == 4
    assert f"sqlite:///{tmp_path}/futurebroker/default-8786.db" in names


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"no database at all" * 100, "holds something else"), (None, "make its folder")],
)
def test_a_file_that_is_no_database_is_explained(tmp_path: Path, content: bytes | None, says: str) -> None:
    """The driver's words alone don't tell what to do."""
    path = tmp_path / "some.db"
    if content is None:
        path = tmp_path / "missing" / "some.db"
    else:
        path.write_bytes(content)
    engine = open_engine(f"sqlite:///{path}")
    with pytest.raises(DatabaseError, match=says):
        revisions.current(engine)
    engine.dispose()
