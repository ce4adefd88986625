"""``futurebroker adapt``: as many workers as there is work for, on any platform that a command can scale."""

from __future__ import annotations

import signal

import click

from futurebroker.adaptive import Adaptive, Command
from futurebroker.amounts import parse_duration
from futurebroker.cli.serving import log_options, start_logging, with_options
from futurebroker.client.client import Client
from futurebroker.config import load_settings
from futurebroker.exceptions import ConfigError
from futurebroker.secret import find_secret


@click.command()
@click.argument("url", required=False)
@click.option("--command", required=True, help='What scales: "heroku ps:scale worker={n}"; {names} is who has left.')
@click.option("--minimum", type=int, default=0, show_default=True, help="Workers there are at least.")
@click.option("--maximum", type=int, required=True, help="Workers there are at most.")
@click.option("--target-duration", default="5s", show_default=True, help="In what time all should be done.")
@click.option("--interval", default="5s", show_default=True, help="The time between looks.")
@click.option("--wait-count", type=int, default=3, show_default=True, help="Looks that must want fewer.")
@click.option("--slots", type=int, default=0, help="Tasks one worker runs at a time. [as the workers say]")
@click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]")
@with_options(log_options)
def adapt(
    url: str | None, command: str, minimum: int, maximum: int, target_duration: str, interval: str, wait_count: int,
    slots: int, cluster: str | None, log_level: str | None, log_format: str | None,
) -> None:  # fmt: skip
    """Have as many workers as there is work for, by running a command.

    Workers that are not needed finish what they run, hand over their results and leave before the command is run.
    Ctrl-C ends this and leaves the workers as they are.
    """
    settings = load_settings(broker_url=url, cluster=cluster, log_level=log_level, log_format=log_format)
    start_logging(settings, find_secret(settings, create=True))
    address = settings.broker_url or f"{settings.host}:{settings.port}"
    try:
        adaptive = Adaptive(
            lambda: Client(address, name="adapt", cluster=cluster, set_as_default=False),
            Command(command, slots=slots),
            minimum=minimum,
            maximum=maximum,
            target_duration=parse_duration(target_duration),
            interval=parse_duration(interval),
            wait_count=wait_count,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    click.echo(f"adapting cluster {settings.cluster} between {minimum} and {maximum} workers")
    try:
        adaptive.wait()
    finally:
        adaptive.stop()
