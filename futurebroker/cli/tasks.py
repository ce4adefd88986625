"""``futurebroker tasks``, ``task`` and ``runs``: what the history knows, from its database; no scheduler is needed."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from futurebroker.cli.text import harmless
from futurebroker.config import history_of, load_settings
from futurebroker.exceptions import FuturebrokerError
from futurebroker.persistence.database import parse_url
from futurebroker.persistence.lookup import Lookup

_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--database", metavar="URL", help="postgresql://user:password@host/name or sqlite:///file.db"),
    click.option("--cluster", help="Whose tasks. [default]"),
    click.option("--port", type=int, help="The port of the scheduler whose SQLite file is meant. [8786]"),
    click.option("--broker", metavar="URL", help="The broker of the scheduler whose SQLite file is meant."),
]


def with_history(command: Any) -> Any:
    """Options that say which history is meant."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def history(database: str | None, cluster: str | None, port: int | None, broker: str | None) -> Iterator[Lookup]:
    """The history that the options name.

    Raises:
        ClickException: there is none.
    """
    settings = load_settings(database_url=database, cluster=cluster, port=port, broker_url=broker)
    url = history_of(settings)
    if url.startswith("sqlite"):
        path = Path(str(parse_url(url).database))
        if not path.exists():
            raise click.ClickException(
                f"there is no history at {path}; `futurebroker scheduler` and `up` keep one, --port or --database "
                "say which"
            )
    lookup = Lookup(url, settings.cluster)
    try:
        yield lookup
    except FuturebrokerError as error:
        raise click.ClickException(str(error)) from error
    finally:
        lookup.close()


@click.command()
@click.argument("query", nargs=-1)
@click.option("-n", "--most", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Tasks to list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a task.")
@with_history
def tasks(query: tuple[str, ...], most: int, as_json: bool, **place: Any) -> None:
    """Find tasks that ended, newest first.

    QUERY is words that must all fit: state:failed type:train* worker:w1 client:c run:last error:ValueError since:1h
    until:2026-11-24 took:>2s, and any other word is part of a key or of an error's message. -word must not fit.
    """
    with history(**place) as lookup:
        found = lookup.search(" ".join(query), most=most)
    if as_json:
        for row in found["rows"]:
            click.echo(json.dumps(row))
        return
    for row in found["rows"]:
        click.echo(harmless(_line(row)))
    shown, total = len(found["rows"]), found["total"]
    failed = f", {found['failed']:,} of them failed" if found["failed"] else ""
    click.echo(f"{shown:,} of {total:,} tasks{failed}" if total else "no task fits")


def _line(row: dict[str, Any]) -> str:
    took = "" if row["duration"] is None else _seconds(row["duration"])
    error = f"  {row['error_type']}: {row['error']}" if row["error_type"] else ""
    text = f"{_when(row['ended_at'])}  {row['outcome']:9}  {took:>8}  {row['worker'] or '-':12}  {row['key']}{error}"
    return text.splitlines()[0][:300]


@click.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_history
def task(key: str, as_json: bool, **place: Any) -> None:
    """Tell the story of the task KEY: when it was submitted, began and ended, its attempts and its error.

    Also what it printed, its arguments and result in short words, its inputs and outputs.
    """
    with history(**place) as lookup:
        found = lookup.task(key)
    if found is None:
        raise click.ClickException(f"the history has no task {key}; unfinished ones are shown by: futurebroker status")
    click.echo(json.dumps(found) if as_json else "\n".join(map(harmless, story(found))))


def story(found: dict[str, Any]) -> list[str]:
    """A task as lines for people."""
    lines = [f"{found['key']}  {found['outcome']}"]
    if found["submitted_at"] is not None:
        lines.append(f"  {_when(found['submitted_at'])}  submitted by {found['client'] or 'nobody who waits'}")
    for event in found["events"]:
        where = f" on {event['worker']}" if event["worker"] else ""
        lines.append(f"  {_when(event['at'])}  {event['kind'].replace('-', ' ')}{where}  {event['text']}".rstrip())
    if found["started_at"] is not None:
        lines.append(f"  {_when(found['started_at'])}  began on {found['worker']}, executor {found['executor']}")
    took = "" if found["duration"] is None else f" after {_seconds(found['duration'])}"
    size = f", {found['nbytes']:,} bytes of {found['result_type']}" if found["nbytes"] else ""
    lines.append(f"  {_when(found['ended_at'])}  {found['outcome']}{took}{size}, attempt {found['attempts']}")
    if found["error_type"]:
        lines.append(f"  {found['error_type']}: {found['error']}")
        lines += [f"    {line}" for line in found["traceback"].splitlines()]
    lines += _noted(found["notes"])
    for name in ("inputs", "outputs"):
        if found[name]:
            lines.append(f"  {name}:")
            lines += [f"    {one['key']}  {one['outcome']}".rstrip() for one in found[name]]
    if found["earlier"]:
        lines.append("  it ended before:")
        lines += [f"    {_line(row)}" for row in found["earlier"]]
    return lines


def _noted(notes: list[dict[str, Any]]) -> list[str]:
    """Arguments and result of the last run that has any, and what each run printed, as lines."""
    lines = []
    for name in ("arguments", "result"):
        text = next((note[name] for note in notes if note[name]), "")
        lines += [f"  {name}: {text}"] * bool(text)
    for note in reversed(notes):
        if note["output"]:
            lines.append(f"  it printed on {note['worker']} at {_when(note['at'])}:")
            lines += [f"    {line}" for line in note["output"].splitlines()]
    return lines


@click.command()
@click.option("-n", "--most", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Runs to list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a run.")
@with_history
def runs(most: int, as_json: bool, **place: Any) -> None:
    """List the lives of a cluster's schedulers, newest first; `futurebroker tasks run:3` finds what one ran."""
    with history(**place) as lookup:
        found = lookup.runs(most)
    for row in found:
        if as_json:
            click.echo(json.dumps(row))
            continue
        end = _when(row["ended_at"]) if row["ended_at"] is not None else f"last seen {_when(row['seen_at'])}"
        left_out = f", {row['dropped']:,} left out" if row["dropped"] else ""
        click.echo(
            f"run {row['id']}  {_when(row['started_at'])} to {end}  on {row['host']}  {row['finished']:,} done, "
            f"{row['failed']:,} failed, {row['cancelled']:,} cancelled, {_seconds(row['seconds'])} of work{left_out}"
        )


@click.command()
@click.option("-n", "--most", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Workers to list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a worker.")
@with_history
def workers(most: int, as_json: bool, **place: Any) -> None:
    """List the workers that a cluster has and had, the newest first; `futurebroker status` shows those that run now."""
    with history(**place) as lookup:
        found = lookup.workers(most)
    for row in found:
        if as_json:
            click.echo(json.dumps(row))
            continue
        end = f"to {_when(row['left_at'])}" if row["left_at"] is not None else "on"
        about = row["about"]
        click.echo(
            f"{row['name']}  {_when(row['joined_at'])} {end}  on {row['host']}  "
            f"{about.get('executors', '?')} executors, Python {about.get('python', '?')}"
        )


@click.command()
@click.option("-n", "--most", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Graphs to list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a graph.")
@with_history
def graphs(most: int, as_json: bool, **place: Any) -> None:
    """List what clients submitted together, the newest first: how many tasks of what, and what they came to."""
    with history(**place) as lookup:
        found = lookup.graphs(most)
    for row in found:
        click.echo(json.dumps(row) if as_json else harmless(_graph_line(row)))


def _graph_line(row: dict[str, Any]) -> str:
    types = sorted(row["types"].items(), key=lambda entry: -entry[1])
    parts = [f"{count:,} {name}" for name, count in types[:5]]
    others = row["tasks"] - sum(count for _, count in types[:5])
    parts += [f"{others:,} others"] * bool(others)
    lasted = f" in {_seconds(row['ended_at'] - row['submitted_at'])}" if row["ended_at"] is not None else ""
    ends = [f"{row[name]:,} {name}" for name in ("finished", "failed", "cancelled") if row[name]]
    return (
        f"{row['graph'][:12]}  {_when(row['submitted_at'])}  {row['state']:10}  {', '.join(ends) or 'none ended'} of "
        f"{row['tasks']:,}{lasted}  {', '.join(parts)}  by {row['client']}"
    )


def _when(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _seconds(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} us"
