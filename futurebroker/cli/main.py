"""The command ``futurebroker``: its subcommands, each loaded only when it is asked for, and how errors end it."""

from __future__ import annotations

import importlib
import sys
from typing import Any, cast

import click

from futurebroker import __version__
from futurebroker.exceptions import FuturebrokerError

#: subcommand -> where it is and what it does; the sentence stands here so that --help loads none of them
_COMMANDS = {
    "up": ("futurebroker.cli.up:up", "Start a scheduler, a worker and the dashboard on this machine."),
    "scheduler": ("futurebroker.cli.scheduler:scheduler", "Start a scheduler."),
    "worker": ("futurebroker.cli.worker:worker", "Start a worker that serves a scheduler."),
    "web": ("futurebroker.cli.web:web", "Serve the dashboard of a cluster."),
    "top": ("futurebroker.cli.top:top", "Watch progress, memory and backlog of a cluster."),
    "adapt": ("futurebroker.cli.adapt:adapt", "Have as many workers as there is work for."),
    "status": ("futurebroker.cli.status:status", "Show workers, tasks and queues of a cluster."),
    "tasks": ("futurebroker.cli.tasks:tasks", "Find tasks that ended, of all runs."),
    "task": ("futurebroker.cli.tasks:task", "Tell the story of one task."),
    "runs": ("futurebroker.cli.tasks:runs", "List the runs of a cluster's schedulers."),
    "graphs": ("futurebroker.cli.tasks:graphs", "List what clients submitted together, and what it came to."),
    "workers": ("futurebroker.cli.tasks:workers", "List the workers that a cluster has and had."),
    "retry": ("futurebroker.cli.bulk:retry", "Run the failed tasks again that a query finds."),
    "cancel": ("futurebroker.cli.bulk:cancel", "Cancel the unfinished tasks that a query finds."),
    "shutdown": ("futurebroker.cli.shutdown:shutdown", "End a whole cluster, scheduler and workers."),
    "doctor": ("futurebroker.cli.doctor:doctor", "Check a deployment and say what to change."),
    "datasets": ("futurebroker.cli.datasets:datasets", "List, describe and remove published datasets."),
    "db": ("futurebroker.cli.db:db", "Make, upgrade and check the database that keeps what must survive."),
    "demo": ("futurebroker.cli.demo:demo", "Run a real computation and check its result."),
    "inspect": ("futurebroker.cli.steering:inspect", "Ask workers what they do, as Celery's inspect."),
    "control": ("futurebroker.cli.steering:control", "Change what workers do, as Celery's control."),
    "call": ("futurebroker.cli.steering:call", "Send a task by its name."),
    "result": ("futurebroker.cli.steering:result", "Print the result of a task."),
    "purge": ("futurebroker.cli.steering:purge", "Give up tasks that have not begun."),
    "config": ("futurebroker.cli.config:config", "Show every setting and where its value came from."),
}


class _Commands(click.Group):
    """A group that imports a subcommand when it is run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, doc) for name, (_, doc) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FuturebrokerError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="futurebroker")
def cli() -> None:
    """Dask-style futures over the message broker you already have.

    Settings come from options, then environment variables (FUTUREBROKER_...), then futurebroker.toml; `futurebroker
    config` shows them.
    """


def main() -> None:
    """Run the command of this process's arguments and exit."""
    try:
        cli.main(prog_name="futurebroker", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.exceptions.Exit as finish:
        sys.exit(finish.exit_code)
