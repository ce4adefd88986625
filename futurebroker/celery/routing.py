"""Which queue a task goes to: ``task_routes`` and ``task_queues``, as Celery reads them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from futurebroker.celery.exceptions import QueueNotFound


def route_of(app: Any, name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ``task_routes`` says of a task; the first that knows it counts."""
    routes = app.conf.task_routes
    if not routes:
        return {}
    for route in routes if isinstance(routes, (list, tuple)) else (routes,):
        found = _look(route, name, options)
        if found:
            return {"queue": found} if isinstance(found, str) else found
    return {}


def _look(route: Any, name: str, options: Mapping[str, Any]) -> Any:
    if isinstance(route, str):
        module, _, attribute = route.partition(":") if ":" in route else route.rpartition(".")
        route = getattr(importlib.import_module(module), attribute)
    if isinstance(route, Mapping):
        return _in_map(route.items(), name)
    if isinstance(route, (list, tuple)):
        return _in_map(route, name)
    if hasattr(route, "route_for_task"):
        return route.route_for_task(name, (), {})
    return route(name, (), {}, dict(options), task=None)


def _in_map(pairs: Any, name: str) -> Any:
    for pattern, found in pairs:
        if isinstance(pattern, re.Pattern):
            if pattern.match(name):
                return found
        elif pattern == name or fnmatchcase(name, pattern):
            return found
    return None


def queue_names(app: Any) -> list[str]:
    """The queues that ``task_queues`` declares; the default one without it."""
    queues = app.conf.task_queues
    if not queues:
        return [app.conf.task_default_queue]
    if isinstance(queues, Mapping):
        return list(queues)
    return [getattr(queue, "name", None) or str(queue) for queue in queues]


def changed_options(app: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that follows is to have otherwise, as the scheduler names it."""
    changes: dict[str, Any] = {}
    if given.get("queue") is not None:
        queue = queue_of(app, given["queue"])
        changes["queue"] = "" if queue == "celery" else queue
    if given.get("priority") is not None:
        changes["priority"] = int(given["priority"])
    for name in ("time_limit", "soft_time_limit"):
        if given.get(name) is not None:
            changes[name] = float(given[name])
    return changes


def queue_of(app: Any, queue: Any) -> str:
    """The name of a task's queue.

    Raises:
        QueueNotFound: it isn't declared, and ``task_create_missing_queues`` is off.
    """
    name = getattr(queue, "name", queue) or app.conf.task_default_queue
    if not app.conf.task_create_missing_queues and name not in queue_names(app):
        raise QueueNotFound(f"there is no queue {name!r} in task_queues: {', '.join(queue_names(app))}")
    return str(name)
