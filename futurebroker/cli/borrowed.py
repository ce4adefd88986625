"""Options of ``celery worker`` that ``futurebroker worker`` takes as well, so that a Procfile keeps its line."""

from __future__ import annotations

import socket
from typing import Any

import click

from futurebroker.cli.serving import with_options
from futurebroker.exceptions import ConfigError

#: options that change nothing, with the reason
WITHOUT_EFFECT = {
    "beat": ("-B", "the scheduler fires what is due"),
    "task_events": ("-E", "the dashboard and client.get_events show what happens in any case"),
    "optimization": ("-O", "tasks are sent only as far ahead as keeps a worker busy"),
    "prefetch_multiplier": ("--prefetch-multiplier", "tasks are sent only as far ahead as keeps a worker busy"),
    "without_gossip": ("--without-gossip", "workers don't talk among each other"),
    "without_mingle": ("--without-mingle", "workers don't talk among each other"),
    "without_heartbeat": ("--without-heartbeat", "the scheduler has to know that a worker lives"),
}

borrowed_options = with_options(
    click.option("--hostname", "-n", hidden=True),
    click.option("--loglevel", "-l", hidden=True),
    click.option("--pool", "-P", hidden=True),
    click.option("--beat", "-B", is_flag=True, hidden=True),
    click.option("--task-events", "-E", is_flag=True, hidden=True),
    click.option("--optimization", "-O", hidden=True),
    click.option("--prefetch-multiplier", hidden=True),
    click.option("--without-gossip", is_flag=True, hidden=True),
    click.option("--without-mingle", is_flag=True, hidden=True),
    click.option("--without-heartbeat", is_flag=True, hidden=True),
)


def adopt(given: dict[str, Any], borrowed: dict[str, Any]) -> dict[str, Any]:
    """Our own options, with what those of Celery say where they say nothing; tells of what has no effect.

    Args:
        given: ``name``, ``log_level``, ``executors`` and ``threads``, None where nothing was said.

    Raises:
        ConfigError: there is no such pool here.
    """
    for key, (option, why) in WITHOUT_EFFECT.items():
        if borrowed.get(key):
            click.echo(f"{option} has no effect: {why}", err=True)
    adopted = dict(given)
    if borrowed.get("hostname") and given["name"] is None:
        adopted["name"] = _expanded(borrowed["hostname"])
    if borrowed.get("loglevel") and given["log_level"] is None:
        adopted["log_level"] = borrowed["loglevel"].lower()
    pool = borrowed.get("pool") or "prefork"
    if pool == "threads":
        adopted |= {"executors": 1, "threads": given["threads"] or given["executors"]}
    elif pool == "solo":
        adopted |= {"executors": 1, "threads": 1}
    elif pool not in ("prefork", "processes"):
        raise ConfigError(f"--pool takes prefork, threads or solo, not {pool!r}; coroutines need no pool of their own")
    return adopted


def _expanded(name: str) -> str:
    """``%h``, ``%n`` and ``%d`` are the host, its name and its domain, as in Celery."""
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    return name.replace("%h", host).replace("%n", short).replace("%d", domain)
