"""The schema from each revision to the newest and back; `tests/services` does the same at PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from futurebroker.exceptions import DatabaseError
from futurebroker.persistence import revisions
from futurebroker.persistence.database import open_engine, writing

KNOWN = [one.name for one in revisions.revisions()]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty SQLite file."""
    engine = open_engine(f"sqlite:///{tmp_path / 'some.db'}")
    yield engine
    engine.dispose()


@pytest.mark.parametrize("revision", KNOWN)
def test_every_revision_is_upgraded_and_taken_back(engine: Engine, revision: str) -> None:
    """Deployments upgrade from whatever they run, and go back when they must."""
    revisions.upgrade(engine, revision)
    assert revisions.current(engine) == revision
    revisions.upgrade(engine)
    assert revisions.current(engine) == KNOWN[-1]
    assert revisions.differences(engine) == []
    revisions.downgrade(engine, revision)
    assert revisions.current(engine) == revision
    revisions.downgrade(engine, "base")
    assert revisions.current(engine) is None


def test_the_revisions_make_one_line(engine: Engine) -> None:
    """Two heads could not be upgraded to."""
    assert len(set(KNOWN)) == len(KNOWN)


def test_a_database_without_tables_is_told_how_to_get_them(engine: Engine) -> None:
    """It is the first thing a deployment meets."""
    with pytest.raises(DatabaseError, match="futurebroker db upgrade"):
        revisions.require(engine)


def test_a_revision_of_a_later_version_is_refused(engine: Engine) -> None:
    """What a later version wrote could be misread by this one."""
    revisions.upgrade(engine)
    revisions.require(engine)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    with pytest.raises(DatabaseError, match=r"later is not known to this version.*upgrade futurebroker"):
        revisions.require(engine)
    with pytest.raises(DatabaseError, match="later"):
        revisions.upgrade(engine)


def test_who_ran_before_an_upgrade_may_go_on(engine: Engine) -> None:
    """Revisions only add; but what isn't there yet can't be worked with."""
    with pytest.raises(DatabaseError, match="futurebroker db upgrade"):
        revisions.require(engine, or_later=True)
    revisions.prepare(engine)
    assert revisions.current(engine) == KNOWN[-1]
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    revisions.prepare(engine, or_later=True)
    with pytest.raises(DatabaseError, match="later is not known"):
        revisions.prepare(engine)
