"""``futurebroker db``: the database's tables made, upgraded, checked and tidied."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Engine

from futurebroker.config import database_of, load_settings
from futurebroker.persistence import revisions
from futurebroker.persistence.database import is_sqlite, open_engine, server_version, shown
from futurebroker.persistence.upkeep import Usage, usage, vacuum


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def db() -> None:
    """Make, upgrade and check the database that keeps what must survive.

    It is the one of --database, FUTUREBROKER_DATABASE_URL or DATABASE_URL; else a SQLite file of this user's.
    """


_database_options: list[Callable[[Any], Any]] = [
    click.option("--database", metavar="URL", help="postgresql://user:password@host/name or sqlite:///file.db"),
    click.option("--cluster", help="Whose SQLite file is meant when no URL is set. [default]"),
    click.option("--port", type=int, help="The port of the scheduler whose SQLite file is meant. [8786]"),
    click.option("--broker", metavar="URL", help="The broker of the scheduler whose SQLite file is meant."),
]


def _with_database(command: Any) -> Any:
    for option in reversed(_database_options):
        command = option(command)
    return command


@contextlib.contextmanager
def _engine(
    database: str | None, cluster: str | None, port: int | None, broker: str | None, *, create: bool = False
) -> Iterator[Engine]:
    settings = load_settings(database_url=database, cluster=cluster, port=port, broker_url=broker)
    engine = open_engine(database_of(settings))
    try:
        if is_sqlite(engine):
            path = Path(str(engine.url.database))
            if create:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            elif not path.exists():
                raise click.ClickException(f"there is no file {path}; make it with: futurebroker db upgrade")
        yield engine
    except OSError as error:
        raise click.ClickException(f"{shown(engine)}: {os.strerror(error.errno or 0)}: {error.filename}") from error
    finally:
        engine.dispose()


@db.command()
@click.argument("revision", default="head")
@_with_database
def upgrade(revision: str, **where: Any) -> None:
    """Make the tables, or bring them to REVISION (the newest). A scheduler that runs need not be stopped."""
    with _engine(**where, create=True) as engine:
        before = revisions.current(engine)
        revisions.upgrade(engine, revision)
        after = revisions.current(engine)
        change = f"is at revision {after}" if before == after else f"went from {before or 'empty'} to revision {after}"
        click.echo(f"{shown(engine)} {change}")


@db.command()
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Don't ask: what newer tables hold is lost.")
@_with_database
def downgrade(revision: str, yes: bool, **where: Any) -> None:
    """Bring the tables back to REVISION; "base" removes them all."""
    with _engine(**where) as engine:
        before = revisions.current(engine)
        if not yes:
            click.confirm(f"{shown(engine)} at {before}: remove what came after {revision}?", abort=True)
        revisions.downgrade(engine, revision)
        click.echo(f"{shown(engine)} went from {before or 'empty'} to {revisions.current(engine) or 'empty'}")


@db.command()
@_with_database
def current(**where: Any) -> None:
    """Show the revision the database has, and those this version knows."""
    with _engine(**where) as engine:
        found = revisions.current(engine)
        click.echo(f"{shown(engine)}, {server_version(engine)}")
        for one in revisions.revisions():
            click.echo(f"{'->' if one.name == found else '  '} {one.name}  {one.title}")
        if found is None:
            click.echo("-> empty")


@db.command()
@_with_database
def check(**where: Any) -> None:
    """See whether the tables are what this version works with; exits with 1 if not."""
    with _engine(**where) as engine:
        click.echo(f"{shown(engine)}, {server_version(engine)}")
        revisions.require(engine)
        differing = revisions.differences(engine)
        for one in differing:
            click.echo(f"differs: {one}")
        for table in usage(engine):
            click.echo(_line(table))
        if differing:
            sys.exit(1)
        click.echo(f"ok, at revision {revisions.newest()}")


def _line(table: Usage) -> str:
    return f"{table.table:<16} {table.rows:>12,} rows {table.nbytes / 2**20:>10,.1f} MiB"


@db.command(name="vacuum")
@_with_database
def vacuum_(**where: Any) -> None:
    """Give back the disk that deleted rows took. Writers of a SQLite file wait meanwhile."""
    with _engine(**where) as engine:
        before, after = vacuum(engine)
        click.echo(f"{shown(engine)}: {before / 2**20:,.1f} MiB -> {after / 2**20:,.1f} MiB")
