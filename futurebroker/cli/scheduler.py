"""``futurebroker scheduler``: one scheduler, with its own embedded broker or at one that runs already."""

from __future__ import annotations

import click

from futurebroker import schedulerfile
from futurebroker.cli.serving import scheduler_options, secret_for_listening, serve, start_logging, with_options
from futurebroker.cli.text import reachable_address, scheduler_lines
from futurebroker.config import load_settings, scheduler_conduct, storage_orders
from futurebroker.exceptions import ClusterShutDownError
from futurebroker.processes import Service
from futurebroker.scheduler.main import begin
from futurebroker.schedulerfile import SchedulerFile
from futurebroker.secret import normalize_address

validate_option = click.option(
    "--validate/--no-validate", default=None, help="Check the scheduler's invariants after every event; slow."
)
run_option = click.option(
    "--allow-run-on-scheduler/--no-run-on-scheduler", "allow_run_on_scheduler", default=None,
    help="Let clients run code in this process: run_on_scheduler, plugins, IPython.",
)  # fmt: skip
shutdown_option = click.option(
    "--allow-shutdown/--no-shutdown", "allow_shutdown", default=None,
    help="Whether clients may end the whole cluster. [they may]",
)  # fmt: skip
broker_option = click.option(
    "--broker", metavar="URL", help="Meet at this broker, such as RabbitMQ, instead of listening oneself."
)


file_option = click.option(
    "--scheduler-file", type=click.Path(dir_okay=False),
    help="Write where it is to this file, with the secret, readable by its owner only; gone when it ends.",
)  # fmt: skip
standby_option = click.option("--standby", is_flag=True, help="Wait for the end of who leads, and go on in its place.")


@click.command()
@with_options(
    scheduler_options, broker_option, validate_option, run_option, shutdown_option, standby_option, file_option
)
def scheduler(
    host: str | None, port: int | None, cluster: str | None, log_level: str | None, log_format: str | None,
    broker: str | None, validate: bool | None, allow_run_on_scheduler: bool | None, allow_shutdown: bool | None,
    journal: str | None, standby: bool, scheduler_file: str | None,
) -> None:  # fmt: skip
    """Start a scheduler.

    It listens for workers and clients itself, or meets them at the broker that --broker or FUTUREBROKER_BROKER_URL
    names. Ctrl-C ends it.
    """
    settings = load_settings(
        host=host,
        port=port,
        cluster=cluster,
        log_level=log_level,
        log_format=log_format,
        broker_url=broker,
        validate=validate,
        allow_run_on_scheduler=allow_run_on_scheduler,
        allow_shutdown=allow_shutdown,
        journal=journal,
    )
    secret = secret_for_listening(settings)
    storage = storage_orders(settings, standby=standby)
    if standby:
        click.echo(f"waiting to lead cluster {settings.cluster}")
    start_logging(settings, secret)

    written: list[SchedulerFile] = []

    async def start() -> Service:
        url = normalize_address(settings.broker_url, settings) if settings.broker_url else None
        service = await begin(
            {
                "cluster": settings.cluster,
                "secret": secret.decode(),
                "broker_url": url,
                "host": settings.host,
                "port": settings.port,
                "storage": storage,
                **scheduler_conduct(settings, history=True),
            }
        )
        if scheduler_file is not None:
            own = f"amqp://{reachable_address(settings, service.url)}"
            place = own if settings.broker_url is None else service.url
            written.append(SchedulerFile(place, settings.cluster, secret.decode()))
            schedulerfile.write(scheduler_file, written[0])
        for line in scheduler_lines(settings, service.url, storage):
            click.echo(line)
        return service

    try:
        serve(start)
    except ClusterShutDownError as error:
        click.echo(str(error))
    finally:
        for told in written:
            schedulerfile.remove(str(scheduler_file), told)
