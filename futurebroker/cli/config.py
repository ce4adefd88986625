"""``futurebroker config``: each setting, its value and where that came from."""

from __future__ import annotations

import click

from futurebroker.config import explain, load_settings


@click.command()
@click.option("--verbose", "-v", is_flag=True, help="Say what each setting is for.")
def config(verbose: bool) -> None:
    """Show every setting and where its value came from.

    Secrets and passwords are not shown.
    """
    lines = explain(load_settings())
    name_width = max(len(line.name) for line in lines)
    value_width = max(len(line.value) for line in lines)
    for line in lines:
        click.echo(f"{line.name:<{name_width}}  {line.value:<{value_width}}  {line.source}")
        if verbose:
            click.echo(f"{'':<{name_width}}  {line.doc}")
