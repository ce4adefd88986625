"""``futurebroker inspect|control|call|result|purge``: what Celery's commands of these names do."""

from __future__ import annotations

import json
from typing import Any

import click

from futurebroker.celery import Celery
from futurebroker.celery.app import Celery as CeleryApp
from futurebroker.celery.control import Inspect
from futurebroker.celery.running import import_app
from futurebroker.cli.serving import with_options
from futurebroker.config import load_settings
from futurebroker.exceptions import ConfigError
from futurebroker.local import Client
from futurebroker.secret import normalize_address

#: questions of `Inspect` that take names
_QUESTIONS = (
    "active", "active_queues", "clock", "conf", "ping", "query_task", "registered", "report", "reserved", "revoked",
    "scheduled", "stats",
)  # fmt: skip
_ACTIONS = {
    "revoke": "ID...", "terminate": "ID...", "rate_limit": "TASK RATE", "time_limit": "TASK SOFT [HARD]",
    "add_consumer": "QUEUE", "cancel_consumer": "QUEUE", "pool_grow": "[N]", "pool_shrink": "[N]", "shutdown": "",
}  # fmt: skip

_app_options = with_options(
    click.option("--app", "-A", "app_name", help="The app: module, or module:name. Its settings say where to connect."),
    click.option("--broker", "-b", "url", help="Address of the scheduler, or of the broker it uses."),
    click.option("--cluster", help="The name that keeps clusters on one broker apart."),
)


def _connected(app_name: str | None, url: str | None, cluster: str | None) -> CeleryApp:
    """An app with a client."""
    app: CeleryApp = import_app(app_name) if app_name else Celery("cli", set_as_current=False)
    settings = load_settings(broker_url=url or app.conf.broker_url, cluster=cluster)
    address = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    app.use_client(Client(address, cluster=cluster, set_as_default=False))
    app._owns_client = True
    return app


def _show(answer: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer, default=str, indent=2))
        return
    if not answer:
        raise click.ClickException("No nodes replied within time constraint")
    for name, said in answer.items():
        click.echo(f"->  {name}: {'OK' if said else '- empty -'}")
        if isinstance(said, dict) and set(said) == {"ok"}:
            click.echo(f"        {said['ok']}")
        elif isinstance(said, list):
            for item in said:
                click.echo(f"    * {item}")
        elif said:
            click.echo("        " + json.dumps(said, default=str, indent=2).replace("\n", "\n        "))


@click.command()
@click.argument("question", type=click.Choice(_QUESTIONS))
@click.argument("arguments", nargs=-1)
@_app_options
@click.option("--destination", "-d", help="Names of workers, with commas between. [all]")
@click.option("--json", "-j", "as_json", is_flag=True, help="Print JSON.")
def inspect(
    question: str, arguments: tuple[str, ...], app_name: str | None, url: str | None, cluster: str | None,
    destination: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Ask workers a QUESTION, as `celery inspect` does."""
    with _connected(app_name, url, cluster) as app:
        asked = Inspect(destination.split(",") if destination else None, app=app)
        method = getattr(asked, question)
        _show(method(*arguments) if question in ("query_task", "registered") else method(), as_json)


@click.command()
@click.argument("action", type=click.Choice(sorted(_ACTIONS)))
@click.argument("arguments", nargs=-1)
@_app_options
@click.option("--destination", "-d", help="Names of workers, with commas between. [all]")
@click.option("--terminate", is_flag=True, help="With revoke: also end tasks that run.")
@click.option("--json", "-j", "as_json", is_flag=True, help="Print JSON.")
def control(
    action: str, arguments: tuple[str, ...], app_name: str | None, url: str | None, cluster: str | None,
    destination: str | None, terminate: bool, as_json: bool,
) -> None:  # fmt: skip
    """Do ACTION to workers or tasks, as `celery control` does."""
    names = destination.split(",") if destination else None
    with _connected(app_name, url, cluster) as app:
        steer = app.control
        answers: Any
        try:
            if action in ("revoke", "terminate"):
                if not arguments:
                    raise ConfigError(f"{action} takes the ids of tasks")
                answers = steer.revoke(arguments, terminate=terminate or action == "terminate", reply=True)
            elif action == "rate_limit":
                answers = steer.rate_limit(arguments[0], arguments[1], reply=True)
            elif action == "time_limit":
                hard = float(arguments[2]) if len(arguments) > 2 else None
                answers = steer.time_limit(arguments[0], float(arguments[1]), hard, reply=True)
            elif action in ("pool_grow", "pool_shrink"):
                answers = getattr(steer, action)(int(arguments[0]) if arguments else 1, names, reply=True)
            elif action == "shutdown":
                answers = steer.shutdown(names, reply=True)
            else:
                answers = getattr(steer, action)(arguments[0], names, reply=True)
        except (IndexError, ValueError) as error:
            raise ConfigError(f"{action} takes {_ACTIONS[action] or 'nothing'}: {error}") from error
        _show({name: said for answer in answers for name, said in answer.items()}, as_json)


@click.command()
@click.argument("name")
@_app_options
@click.option("--args", "-a", default="[]", help="Positional arguments, as JSON.")
@click.option("--kwargs", "-k", default="{}", help="Keyword arguments, as JSON.")
@click.option("--countdown", type=float, help="Seconds to wait.")
@click.option("--eta", help="ISO-8601 time to wait for.")
@click.option("--expires", help="Seconds, or ISO-8601 time, after which it isn't begun.")
@click.option("--queue", help="The queue it goes to.")
def call(
    name: str, app_name: str | None, url: str | None, cluster: str | None, args: str, kwargs: str,
    countdown: float | None, eta: str | None, expires: str | None, queue: str | None,
) -> None:  # fmt: skip
    """Send the task NAME, and print its id."""
    try:
        given_args, given_kwargs = json.loads(args), json.loads(kwargs)
    except ValueError as error:
        raise ConfigError(f"--args and --kwargs take JSON: {error}") from error
    end: Any = float(expires) if expires and expires.replace(".", "").isdigit() else expires
    options = {"countdown": countdown, "eta": eta, "expires": end, "queue": queue}
    with _connected(app_name, url, cluster) as app:
        given: Any = {option: value for option, value in options.items() if value is not None}
        result = app.send_task(name, given_args, given_kwargs, **given)
        app.sender.metas([result.id])  # it has arrived when this is answered
        click.echo(result.id)


@click.command()
@click.argument("task_id")
@_app_options
@click.option("--traceback", is_flag=True, help="Print the traceback of a failure in place of the result.")
def result(task_id: str, app_name: str | None, url: str | None, cluster: str | None, traceback: bool) -> None:
    """Print the result of the task TASK_ID; waits for it."""
    with _connected(app_name, url, cluster) as app:
        found = app.AsyncResult(task_id)
        value = found.get(propagate=False)
        click.echo(found.traceback if traceback else value)


@click.command()
@_app_options
@click.option("--force", "-f", is_flag=True, help="Don't ask.")
def purge(app_name: str | None, url: str | None, cluster: str | None, force: bool) -> None:
    """Give up all tasks of apps that have not begun."""
    if not force:
        click.confirm("This gives up all tasks that have not begun, for good. Are you sure?", abort=True)
    with _connected(app_name, url, cluster) as app:
        count = app.control.purge()
    click.echo(f"gave up {count} {'task' if count == 1 else 'tasks'}")
