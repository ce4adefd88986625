"""What an executor does with ``-A``: it imports the app, and tells the scheduler of it as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from futurebroker.celery import discovery, signals
from futurebroker.celery.conf import WITHOUT_EFFECT
from futurebroker.celery.routing import queue_names
from futurebroker.celery.running import import_app
from futurebroker.celery.sending import Sender, seconds
from futurebroker.client.calls import Call
from futurebroker.protocol.serialize import dumps
from futurebroker.schedules import schedule_of


def start(name: str) -> dict[str, Any]:
    """Import the app called ``name`` with all its tasks; returns what the scheduler is told of it.

    Raises:
        FuturebrokerError: there is no such app.
    """
    app = import_app(name)
    if getattr(app, "uses_django", False):
        discovery.set_up_django()
    app.set_current()
    app.import_tasks()
    tasks = app.tasks
    signals.worker_process_init.send(None)
    signals.worker_init.send(app)
    return {
        "app": app.main or name,
        "tasks": [task for task in tasks if not task.startswith("celery.")],
        "queues": queue_names(app),
        "conf": _plain({key: value for key, value in app.conf.changed().items() if _may_be_shown(key)}),
        "schedules": [_schedule(app, key, entry) for key, entry in app.conf.beat_schedule.items()],
    }


def started() -> None:
    """The executor takes tasks from now on."""
    signals.worker_ready.send(None)


def stop() -> None:
    """The executor ends."""
    signals.worker_process_shutdown.send(None)
    signals.worker_shutdown.send(None)


def _may_be_shown(name: str) -> bool:
    hidden = ("password", "secret", "key", "url", "backend", "schedule", "token")
    return name not in WITHOUT_EFFECT and not any(word in name for word in hidden)


def _plain(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, enc_hook=repr)
    except (TypeError, ValueError):
        return repr(value)


def _schedule(app: Any, name: str, entry: dict[str, Any]) -> list[Any]:
    """An entry of ``beat_schedule`` as `futurebroker.scheduler.beat.Entry`."""
    task = str(entry["task"])
    given = dict(entry.get("options") or {})
    options = Sender(app, None).options(app.tasks.get(task), task, given)
    made = schedule_of(entry["schedule"])
    data = made.data()
    if data[0] == "crontab" and data[-1] is None and app.conf.timezone:
        data[-1] = str(app.conf.timezone)
    if data[0] == "interval" and entry.get("relative"):
        data[-1] = True
    call = Call.of(app.call_of(task), options, "", task)
    args = dumps((tuple(entry.get("args") or ()), dict(entry.get("kwargs") or {})))
    expires = seconds(given["expires"]) if isinstance(given.get("expires"), (int, float)) else 0.0
    return [
        name, app.main or "", data, task, call.digest, call.code, args, msgspec.to_builtins(options), expires,
        bool(entry.get("enabled", True)),
    ]  # fmt: skip


Describe = Callable[[dict[str, Any]], None]
