"""``futurebroker web``: the site of a cluster that runs already, here or elsewhere."""

from __future__ import annotations

import asyncio
import dataclasses
import os

import click

from futurebroker.cli.serving import log_options, serve, start_logging
from futurebroker.config import hide_password, load_settings
from futurebroker.processes import Service
from futurebroker.secret import find_secret, normalize_address
from futurebroker.web.server import SiteServer


class _Serving:
    """A site, as `serve` wants a service."""

    def __init__(self, server: SiteServer) -> None:
        self._server = server
        self._ended = asyncio.Event()

    async def finished(self) -> None:
        await self._ended.wait()

    async def close(self) -> None:
        self._ended.set()
        await asyncio.to_thread(self._server.close)


@click.command()
@click.argument("url", required=False)
@click.option("--host", help="Where to listen; for others to reach it, FUTUREBROKER_WEB_TOKEN must be set. [127.0.0.1]")
@click.option("--port", type=int, help="The port to listen on; 0 takes any free one. [8787]")
@click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]")
@click.option("--database", metavar="URL", help="Where the history is kept.")
@click.option("--read-only", is_flag=True, default=None, help="Let nobody cancel or retry.")
@log_options
def web(
    url: str | None, host: str | None, port: int | None, cluster: str | None, database: str | None,
    read_only: bool | None, log_level: str | None, log_format: str | None,
) -> None:  # fmt: skip
    """Serve the dashboard of the cluster at URL.

    Without URL, FUTUREBROKER_BROKER_URL counts, and then a scheduler on this machine. The site need not run where the
    scheduler does: both meet at the broker. In a deployment, run it by gunicorn: futurebroker.web:create_app().
    """
    settings = load_settings(
        broker_url=url, web_host=host, web_port=port, cluster=cluster, database_url=database, web_read_only=read_only,
        log_level=log_level, log_format=log_format,
    )  # fmt: skip
    address = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    secret = find_secret(dataclasses.replace(settings, broker_url=address), create=True)
    start_logging(settings, secret)

    async def start() -> Service:
        try:
            server = SiteServer(settings, host=settings.web_host, port=settings.web_port, url=address, secret=secret)
        except OSError as error:
            place = f"{settings.web_host}:{settings.web_port}"
            raise click.ClickException(
                f"cannot listen on {place}: {os.strerror(error.errno or 0)}; choose another --port"
            ) from error
        server.start()
        click.echo(f"dashboard of the cluster {settings.cluster} at {hide_password(address)}")
        unset = server.site.guard.door.unset
        click.echo(
            f"it opens to nobody: {unset}" if unset else server.link if settings.web_token is None else server.address
        )
        click.echo("stop with Ctrl-C")
        return _Serving(server)

    serve(start)
