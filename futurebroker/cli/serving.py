"""What the commands that serve have in common: options, the secret, and an end by Ctrl-C that leaves no trace."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from futurebroker import logs
from futurebroker.config import Settings
from futurebroker.exceptions import SecretError
from futurebroker.logs import passwords_of
from futurebroker.polling import new_loop
from futurebroker.processes import Service, quiet_collector, run_until
from futurebroker.secret import find_secret, is_loopback

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: what a shell shows for a program that Ctrl-C ended
INTERRUPTED = 128 + signal.SIGINT


def with_options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """One decorator that adds several options, in the order of their help."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


log_options = with_options(
    click.option("--log-level", help="The least severe message that is logged. [info]"),
    click.option("--log-format", help="How log lines are written: text, or json (one object each). [text]"),
)

scheduler_options = with_options(
    click.option("--host", help="Where to listen; other machines reach it only with a given secret. [127.0.0.1]"),
    click.option("--port", type=int, help="The port to listen on; 0 takes any free one. [8786]"),
    click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]"),
    click.option(
        "--journal",
        metavar="MODE",
        help="What survives: none, process, or full (with PostgreSQL). [process, full with PostgreSQL]",
    ),
    log_options,
)

worker_options = with_options(
    click.option(
        "--executors",
        "-c",
        "--concurrency",
        "executors",
        type=int,
        help="Processes that run tasks. [as many as there are cores]",
    ),
    click.option("--threads", type=int, help="Threads in each of them. [1]"),
    click.option(
        "--memory-limit",
        help='Of the worker with its processes and results: auto, 0 (none), "4GB", 0.5 (half the machine). [auto]',
    ),
)


def start_logging(settings: Settings, secret: bytes, worker: str | None = None) -> None:
    """Log to standard error as the settings say; the secret and passwords appear in no line."""
    hidden = [secret.decode(), *passwords_of((settings.broker_url, settings.database_url))]
    about = {"worker": worker} if worker else {}
    logs.start_logging(settings.log_level, settings.log_format, hidden=hidden, fields=lambda: about)


def secret_for_listening(settings: Settings) -> bytes:
    """The secret of a scheduler; one that others can reach must have been given.

    The file that is made on first local use does not count: nobody decided that it may guard an open port.

    Raises:
        SecretError: it listens to other machines without a given secret.
    """
    given = settings.secret is not None or settings.secret_file is not None
    if settings.broker_url is None and not is_loopback(settings.host) and not given:
        raise SecretError(
            f"listening on {settings.host} lets other machines in, so the secret must be given: "
            "set FUTUREBROKER_SECRET, or FUTUREBROKER_SECRET_FILE to a file of mode 0600, the same on every machine "
            "(a good one: openssl rand -hex 32)"
        )
    return find_secret(settings, create=True)


def serve(start: Callable[[], Awaitable[Service]]) -> None:
    """Run a service until it ends or a signal says so; Ctrl-C exits with 130, SIGTERM with 0."""
    quiet_collector()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        code = runner.run(_serve(start))
    if code:
        sys.exit(code)


async def _serve(start: Callable[[], Awaitable[Service]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    code = 0

    def interrupted(number: int, exit_code: int) -> None:
        nonlocal code
        code = exit_code
        if number == signal.SIGINT:
            # A second Ctrl-C ends what does not end by itself; platforms send SIGTERM twice and mean it once.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupted, signal.SIGINT, INTERRUPTED)
    loop.add_signal_handler(signal.SIGTERM, interrupted, signal.SIGTERM, 0)
    beginning = asyncio.ensure_future(start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([beginning, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not beginning.done():
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
        return code
    stopping.cancel()
    await run_until(beginning.result(), stop)
    return code
