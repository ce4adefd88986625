"""``futurebroker datasets``: what is published in a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from futurebroker.amounts import show_bytes
from futurebroker.client.client import Client
from futurebroker.config import database_of, load_settings
from futurebroker.exceptions import ClusterConnectionError, DatabaseError, UnknownDatasetError
from futurebroker.persistence.database import open_engine, parse_url
from futurebroker.persistence.datasets import listed
from futurebroker.secret import normalize_address

_options: list[Callable[[Any], Any]] = [
    click.option("--address", help="Where the scheduler is. [FUTUREBROKER_BROKER_URL, else this machine]"),
    click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]"),
    click.option("--timeout", help="How long to wait for the scheduler. [10s]"),
]
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def cluster_options(command: Any) -> Any:
    """Options that say which cluster is meant."""
    for option in reversed(_options):
        command = option(command)
    return command


def _kept_rows(address: str | None, cluster: str | None, error: ClusterConnectionError) -> list[dict[str, Any]]:
    """What the scheduler's database has of its datasets, when it doesn't answer.

    Raises:
        ClusterConnectionError: there is no such database.
        ClickException: it can't be read.
    """
    settings = load_settings(broker_url=address, cluster=cluster)
    url = database_of(settings)
    if url.startswith("sqlite") and not Path(str(parse_url(url).database)).exists():
        raise error
    engine = open_engine(url)
    try:
        rows = listed(engine, settings.cluster)
    except DatabaseError as trouble:
        raise click.ClickException(f"{error}; {trouble}") from trouble
    finally:
        engine.dispose()
    click.echo(f"{error}; its database has:", err=True)
    return rows


def _client(address: str | None, cluster: str | None, timeout: str | None) -> Client:
    settings = load_settings(broker_url=address, cluster=cluster, connect_timeout=timeout)
    url = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    return Client(
        url, cluster=settings.cluster, timeout=settings.connect_timeout, set_as_default=False, name="datasets"
    )


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@cluster_options
@click.pass_context
def datasets(ctx: click.Context, address: str | None, cluster: str | None, timeout: str | None) -> None:
    """List published datasets; see the commands for more."""
    ctx.obj = (address, cluster, timeout)
    if ctx.invoked_subcommand is None:
        _print_list(ctx.obj, False)


def _place(ctx: click.Context, *given: str | None) -> tuple[str | None, ...]:
    """Options may stand before the command or after it."""
    return tuple(after or before for before, after in zip(ctx.obj, given))


@datasets.command("list")
@cluster_options
@json_option
@click.pass_context
def list_(ctx: click.Context, address: str | None, cluster: str | None, timeout: str | None, as_json: bool) -> None:
    """List all datasets; those of a scheduler that doesn't run as its database has them."""
    _print_list(_place(ctx, address, cluster, timeout), as_json)


@datasets.command()
@click.argument("name")
@cluster_options
@json_option
@click.pass_context
def show(
    ctx: click.Context, name: str, address: str | None, cluster: str | None, timeout: str | None, as_json: bool
) -> None:
    """Tell what is known of NAME."""
    place = _place(ctx, address, cluster, timeout)
    try:
        with _client(*place) as client:
            info = client.dataset_info(name)
    except ClusterConnectionError as error:
        found = [row for row in _kept_rows(place[0], place[1], error) if row["name"] == name]
        if not found:
            raise UnknownDatasetError(name) from error
        info = found[0]
    click.echo(json.dumps(info) if as_json else "\n".join(lines_of(info)))


@datasets.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@cluster_options
@click.pass_context
def rm(
    ctx: click.Context, names: tuple[str, ...], address: str | None, cluster: str | None, timeout: str | None
) -> None:
    """Unpublish NAME; results that nobody else holds go with it."""
    with _client(*_place(ctx, address, cluster, timeout)) as client:
        for name in names:
            client.unpublish_dataset(name)
            click.echo(f"unpublished {name}")


def _print_list(place: tuple[str | None, ...], as_json: bool) -> None:
    try:
        with _client(*place) as client:
            rows = list(client.dataset_info().values())
    except ClusterConnectionError as error:
        rows = _kept_rows(place[0], place[1], error)
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = [("name", "type", "size", "ready", "kept", "by", "when"), *map(_row, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    if not rows:
        click.echo("none")


def _row(info: dict[str, Any]) -> tuple[str, ...]:
    ready = f"{info['ready']:,} of {info['parts']:,}" if info["parts"] and "ready" in info else "-"
    return info["name"], info["type"], show_bytes(info["size"]), ready, kept(info), info["who"], moment(info["when"])


def kept(info: dict[str, Any]) -> str:
    """Where a dataset lies, in words."""
    if not info["persist"]:
        return "workers"
    if info.get("stored", True):
        return str(info["persist"])
    return f"{info['persist']}, not stored" if info["trouble"] else f"{info['persist']}, soon"


def moment(when: float) -> str:
    """A moment as people here read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def lines_of(info: dict[str, Any]) -> Iterator[str]:
    """The lines that people read."""
    yield f"name         {info['name']}"
    yield f"type         {info['type']}"
    yield f"size         {show_bytes(info['size'])} ({info['size']:,} bytes)"
    if "ready" in info:
        yield f"results      {info['ready']:,} of {info['parts']:,} ready, {info['failed']:,} failed"
    else:
        yield f"results      {info['parts']:,}"
    yield f"kept         {kept(info)}" + (f": {info['trouble']}" if info.get("trouble") else "")
    yield f"published    {moment(info['when'])} by {info['who']}, {info['program']}, client {info['client']}"
    if info["graph"]:
        yield f"graph        {info['graph']} of {info['graph_tasks']:,} tasks"
    for name, value in info["environment"].items():
        yield f"{name:<12} {value}"
    yield f"reopen       Client(ADDRESS).get_dataset({info['name']!r})"
