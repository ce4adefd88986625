"""``futurebroker worker``: a worker that serves a scheduler, here or elsewhere."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import click

from futurebroker import schedulerfile, surroundings
from futurebroker.cli.borrowed import adopt, borrowed_options
from futurebroker.cli.serving import log_options, serve, start_logging, with_options, worker_options
from futurebroker.cli.text import parse_resources
from futurebroker.config import Settings, hide_password, load_settings
from futurebroker.exceptions import ConfigError
from futurebroker.launch import cores
from futurebroker.orders import worker_data
from futurebroker.processes import Service
from futurebroker.schedulerfile import SchedulerFile
from futurebroker.secret import find_secret, normalize_address
from futurebroker.worker.apps import AppPlan
from futurebroker.worker.limits import detect_limit
from futurebroker.worker.service import WorkerService


def _suited(settings: Settings) -> Settings:
    """What was not set follows the machine; a dyno's memory is less than its machine tells."""
    memory = settings.memory_limit
    dyno = surroundings.dyno_memory(os.environ)
    if memory == "auto" and dyno is not None:
        memory = min(dyno, detect_limit().nbytes or dyno)
    limit = memory if isinstance(memory, int) else detect_limit().nbytes
    executors = settings.executors or surroundings.executors(os.environ, cores(), limit)
    return dataclasses.replace(settings, executors=executors, memory_limit=memory)


def _told(path: str | None, url: str | None, timeout: str | None) -> SchedulerFile | None:
    """What the scheduler file says, once it is there."""
    if path is None:
        return None
    if url is not None:
        raise ConfigError("URL and --scheduler-file both say where the scheduler is; give one of them")
    return schedulerfile.read(path, load_settings(connect_timeout=timeout).connect_timeout)


app_options = with_options(
    click.option("--app", "-A", default="", help="The app whose tasks it runs: module, or module:name."),
    click.option("--queues", "-Q", help="Queues to take tasks from, with commas between. [the app's, or all]"),
    click.option("--max-tasks-per-child", type=click.IntRange(0), default=0, help="Replace executors after so many."),
    click.option(
        "--max-memory-per-child", type=click.IntRange(0), default=0, help="Replace executors above so much KiB."
    ),
    click.option("--time-limit", type=click.FloatRange(0), default=0.0, help="Seconds after which a task is ended."),
    click.option("--soft-time-limit", type=click.FloatRange(0), default=0.0, help="Seconds until it is told to."),
)


@click.command()
@click.argument("url", required=False)
@with_options(worker_options)
@click.option("--name", help="What workers= may call it. [$DYNO, else host and process id]")
@click.option("--resources", default="", help='Amounts that tasks with resources= take from: "GPU=2 MEM=1e9".')
@click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]")
@click.option("--local-folder", type=click.Path(file_okay=False), help="Where results that go to disk are kept. [/tmp]")
@click.option("--scheduler-file", type=click.Path(dir_okay=False), help="Read where the scheduler is from this file.")
@click.option("--timeout", help="How long to wait for the scheduler. [10s]")
@with_options(app_options)
@with_options(borrowed_options)
@log_options
def worker(
    url: str | None, executors: int | None, threads: int | None, memory_limit: str | None, name: str | None,
    resources: str, cluster: str | None, local_folder: str | None, timeout: str | None, log_level: str | None,
    log_format: str | None, app: str, queues: str | None, max_tasks_per_child: int, max_memory_per_child: int,
    time_limit: float, soft_time_limit: float, scheduler_file: str | None, **borrowed: Any,
) -> None:  # fmt: skip
    """Start a worker that serves the scheduler at URL.

    URL may be short: scheduler:8786 is amqp://scheduler:8786. Without it, FUTUREBROKER_BROKER_URL counts, and then a
    scheduler on this machine. Ctrl-C ends the worker and its executors.
    """
    own = adopt({"name": name, "log_level": log_level, "executors": executors, "threads": threads}, borrowed)
    name = own["name"]
    told = _told(scheduler_file, url, timeout)
    settings = load_settings(
        broker_url=told.address if told else url, executors=own["executors"], nthreads=own["threads"],
        memory_limit=memory_limit, cluster=told.cluster if told else cluster, secret=told.secret if told else None,
        local_folder=local_folder, connect_timeout=timeout, log_level=own["log_level"], log_format=log_format,
    )  # fmt: skip
    if name is not None and not name.strip():
        raise ConfigError("--name must not be empty")
    name = name or surroundings.worker_name(os.environ)
    settings = _suited(settings)
    amounts = parse_resources(resources)
    address = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    secret = find_secret(dataclasses.replace(settings, broker_url=address), create=True)
    start_logging(settings, secret, name)

    names = [name.strip() for name in queues.split(",") if name.strip()] if queues else None
    plan = AppPlan(app, names, time_limit, soft_time_limit, max_tasks_per_child, max_memory_per_child * 1024)
    services = []

    async def start() -> Service:
        service = WorkerService(
            url=address,
            cluster=settings.cluster,
            secret=secret,
            name=name,
            executors=settings.executors,
            threads=settings.nthreads,
            resources=amounts or None,
            app=plan,
            **worker_data(settings),
        )
        services.append(service)
        await service.start(settings.connect_timeout)
        place = hide_password(address)
        click.echo(f"worker {service.name} serves the scheduler at {place}, cluster {settings.cluster}")
        return service

    serve(start)
    for service in services:
        if service.refusal is not None:
            raise service.refusal
