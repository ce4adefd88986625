"""The schema's revisions: which the database has, which this version needs, and how to get from one to the other."""

from __future__ import annotations

import importlib.resources
import logging
from dataclasses import dataclass

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from futurebroker.exceptions import DatabaseError
from futurebroker.persistence import history_tables  # noqa: F401 - its tables belong to the metadata
from futurebroker.persistence.database import is_sqlite, reading, shown, writing
from futurebroker.persistence.models import metadata

# It tells of each look at the revision.
logging.getLogger("alembic").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of the schema."""

    name: str
    title: str


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(importlib.resources.files("futurebroker") / "migrations"))
    config.attributes["connection"] = connection
    config.attributes["metadata"] = metadata
    return config


def revisions() -> list[Revision]:
    """All revisions this version knows, oldest first."""
    found = ScriptDirectory.from_config(_config()).walk_revisions()
    return [Revision(one.revision, one.doc.rstrip(".")) for one in reversed(list(found))]


def newest() -> str:
    """The revision this version works with."""
    return revisions()[-1].name


def current(engine: Engine) -> str | None:
    """The revision the database has; None for an empty one.

    Raises:
        DatabaseError: it can't be read.
    """
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to ``revision``, in one transaction.

    Raises:
        DatabaseError: it can't be written, or has a revision this version doesn't know.
    """
    _move(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Bring the schema back to ``revision``; ``base`` is the empty database. Newer tables go with what they hold.

    Raises:
        DatabaseError: as of `upgrade`.
    """
    _move(engine, command.downgrade, revision)


def _move(engine: Engine, move: object, revision: str) -> None:
    assert callable(move)
    try:
        with writing(engine) as connection:
            move(_config(connection), revision)
    except CommandError as error:
        raise DatabaseError(shown(engine), f"{error}; this version knows {_known()}") from error


def _known() -> str:
    return ", ".join(one.name for one in revisions())


def prepare(engine: Engine, *, or_later: bool = False) -> None:
    """Make the tables of a SQLite file, or bring them to the newest revision; those of a server are its operator's.

    Args:
        or_later: as of `require`.

    Raises:
        DatabaseError: that can't be done, or as of `require`.
    """
    if is_sqlite(engine) and current(engine) in (None, *(one.name for one in revisions()[:-1])):
        upgrade(engine)
    require(engine, or_later=or_later)


def require(engine: Engine, *, or_later: bool = False) -> None:
    """See that the database has the revision this version works with.

    Args:
        or_later: a revision that isn't known will do: the scheduler ran before the upgrade, and revisions only add.

    Raises:
        DatabaseError: it hasn't, with what to do.
    """
    found, wanted = current(engine), newest()
    if found == wanted:
        return
    if found is None:
        raise DatabaseError(shown(engine), "it has no tables yet; make them with: futurebroker db upgrade")
    if found in {one.name for one in revisions()}:
        raise DatabaseError(
            shown(engine), f"it is at revision {found} and {wanted} is needed; run: futurebroker db upgrade"
        )
    if or_later:
        return
    raise DatabaseError(
        shown(engine), f"its revision {found} is not known to this version (it knows {_known()}); upgrade futurebroker"
    )


def differences(engine: Engine) -> list[str]:
    """How the database's tables differ from the models, in words; empty when they agree."""
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(one) for one in compare_metadata(context, metadata)]
