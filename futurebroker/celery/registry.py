"""Parts of an app: its tasks by name, its modules, and what stands for Celery's backend."""

from __future__ import annotations

import importlib
import inspect
from importlib.util import find_spec
from typing import Any


class Registry(dict[str, Any]):
    """Tasks by name."""

    def register(self, task: Any) -> None:
        """Add a task."""
        task = task() if inspect.isclass(task) else task
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Take one out, by its name or itself."""
        self.pop(getattr(name, "name", name))

    def regular(self) -> dict[str, Any]:
        """All of them."""
        return dict(self)

    def periodic(self) -> dict[str, Any]:
        """Of older programs: none."""
        return {}


class Backend:
    """See `Celery.backend`."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """What is known of a task."""
        result = self.app.AsyncResult(task_id)
        return {"task_id": task_id, "status": result.state, "result": result.result, "traceback": result.traceback}

    def get_state(self, task_id: str) -> str:
        """Its state."""
        return str(self.app.AsyncResult(task_id).state)

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """Its result."""
        return self.app.AsyncResult(task_id).result

    def forget(self, task_id: str) -> None:
        """Don't keep it."""
        self.app.AsyncResult(task_id).forget()

    def as_uri(self, include_password: bool = False) -> str:
        """Where it is."""
        return "futurebroker://"


def symbol(name: Any) -> Any:
    if not isinstance(name, str):
        return name
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def import_related(package: str, related_name: str | None) -> None:
    """Import a module of a package, if there is one; errors inside it are raised."""
    name = f"{package}.{related_name}" if related_name else package
    importlib.import_module(package)
    if related_name is None or find_spec(name) is not None:
        importlib.import_module(name)
