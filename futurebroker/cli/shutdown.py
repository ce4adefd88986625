"""``futurebroker shutdown``: the end of a whole cluster, scheduler and workers."""

from __future__ import annotations

import click

from futurebroker.client.client import Client
from futurebroker.config import hide_password, load_settings
from futurebroker.secret import normalize_address


@click.command()
@click.argument("url", required=False)
@click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]")
@click.option("--timeout", help="How long to wait for the scheduler. [10s]")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
def shutdown(url: str | None, cluster: str | None, timeout: str | None, yes: bool) -> None:
    """End the cluster at URL: its scheduler, its workers, and what they run.

    What was published or journaled stays in the database. A scheduler started with --no-shutdown refuses.
    """
    settings = load_settings(broker_url=url, cluster=cluster, connect_timeout=timeout)
    address = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    what = f"the cluster {settings.cluster} at {hide_password(address)}"
    if not yes:
        click.confirm(f"This ends {what}, and all that it runs. Are you sure?", abort=True)
    client = Client(
        address, cluster=settings.cluster, timeout=settings.connect_timeout, set_as_default=False, name="shutdown"
    )
    try:
        client.shutdown()
    finally:
        client.close()
    click.echo(f"{what} has ended")
