"""``futurebroker up``: a scheduler, a worker and the dashboard on this machine, as one command that ends all."""

from __future__ import annotations

import asyncio

import click

from futurebroker.cli.scheduler import broker_option, validate_option
from futurebroker.cli.serving import (
    scheduler_options,
    secret_for_listening,
    serve,
    start_logging,
    with_options,
    worker_options,
)
from futurebroker.cli.text import scheduler_lines
from futurebroker.config import Settings, load_settings, scheduler_conduct, storage_orders
from futurebroker.exceptions import StartError
from futurebroker.launch import ClusterPlan, ClusterProcesses, cores
from futurebroker.orders import worker_data
from futurebroker.processes import Child, Service
from futurebroker.secret import normalize_address


class _Up:
    """The processes of one `up`, as a service that has ended when one of them has."""

    def __init__(self, plan: ClusterPlan) -> None:
        self._processes = ClusterProcesses(plan)

    async def start(self) -> str:
        """Start both and return the scheduler's address."""
        try:
            await asyncio.to_thread(self._processes.start, ["up"])
        except BaseException:
            # Also ends the start that the thread still waits for.
            self._processes.close()
            raise
        return self._processes.url

    async def dashboard(self) -> str:
        """Start the site and return its link."""
        return await asyncio.to_thread(self._processes.dashboard)

    async def finished(self) -> None:
        """Return when either has ended."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Child] = loop.create_future()
        children = self._processes.children

        def end(child: Child) -> None:
            if not ended.done():
                ended.set_result(child)

        for child in children:
            loop.add_reader(child.fileno(), end, child)
        try:
            first = await ended
        finally:
            for child in children:
                loop.remove_reader(child.fileno())
        if await asyncio.to_thread(first.code) != 0:
            raise click.ClickException(f"the {first.title} has ended, so the rest ends too; its log says why")
        click.echo(f"the {first.title} was told to end, so the rest ends too")

    async def close(self) -> None:
        """End both."""
        await asyncio.to_thread(self._processes.close)


async def _dashboard(up: _Up, settings: Settings) -> str:
    """Its link, or why there is none, which is no reason to do without the rest."""
    try:
        link = await up.dashboard()
    except StartError as error:
        return str(error)
    return link if settings.web_token is None else link.partition("?")[0]


def _plan(settings: Settings, secret: bytes) -> ClusterPlan:
    return ClusterPlan(
        name=settings.cluster,
        secret=secret.decode(),
        broker_url=normalize_address(settings.broker_url, settings) if settings.broker_url else None,
        host=settings.host,
        port=settings.port,
        executors=settings.executors or cores(),
        threads=settings.nthreads,
        memory=worker_data(settings),
        timeout=max(settings.connect_timeout, 30.0),
        log_level=settings.log_level,
        log_format=settings.log_format,
        conduct={**scheduler_conduct(settings, history=True), "storage": storage_orders(settings)},
        web_host=settings.web_host,
        web_port=settings.web_port,
    )


@click.command()
@with_options(scheduler_options, broker_option, validate_option, worker_options)
def up(
    host: str | None, port: int | None, cluster: str | None, log_level: str | None, log_format: str | None,
    broker: str | None, validate: bool | None, journal: str | None,
    executors: int | None, threads: int | None, memory_limit: str | None,
) -> None:  # fmt: skip
    """Start a scheduler, a worker and the dashboard on this machine.

    More workers can join from other terminals, and from other machines with --host and a secret. Ctrl-C ends all.
    """
    settings = load_settings(
        host=host, port=port, cluster=cluster, log_level=log_level, log_format=log_format, broker_url=broker,
        validate=validate, journal=journal, executors=executors, nthreads=threads, memory_limit=memory_limit,
    )  # fmt: skip
    secret = secret_for_listening(settings)
    plan = _plan(settings, secret)
    start_logging(settings, secret)

    async def start() -> Service:
        service = _Up(plan)
        url = await service.start()
        for line in scheduler_lines(settings, url, storage_orders(settings)):
            click.echo(line)
        click.echo(f"one worker runs: executors={plan.executors} threads={plan.threads}")
        if settings.dashboard:
            click.echo(f"dashboard: {await _dashboard(service, settings)}")
        return service

    serve(start)
