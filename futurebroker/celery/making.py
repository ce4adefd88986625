"""How an app comes by its tasks: decorated, registered, shared with other apps, and found in modules."""

from __future__ import annotations

import importlib
import inspect
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, overload

from futurebroker.celery import discovery, local, signals
from futurebroker.celery.autoretry import autoretrying
from futurebroker.celery.builtins import BUILTINS
from futurebroker.celery.conf import Conf
from futurebroker.celery.definitions import REGISTERED
from futurebroker.celery.exceptions import DuplicateTaskNameWarning
from futurebroker.celery.models import with_models
from futurebroker.celery.registry import Registry, import_related, symbol
from futurebroker.celery.signature import maybe_list

#: options of `Celery.task` for retries by themselves
_AUTORETRY = ("autoretry_for", "dont_autoretry_for", "retry_backoff", "retry_backoff_max", "retry_jitter")


#: parts of Celery's apps that there are none of, and what is there instead
ABSENT = {
    "amqp": "messages are the scheduler's business; task_routes and task_queues say which worker runs what",
    "events": "client.get_events() tells what happens, and the dashboard shows it",
    "log": "futurebroker.celery.get_task_logger and logging do",
    "pool": "one connection serves the whole program; app.client has it",
    "producer_pool": "one connection serves the whole program; app.client has it",
    "connection_for_read": "one connection serves the whole program; app.client has it",
    "connection_for_write": "one connection serves the whole program; app.client has it",
    "steps": "worker plugins (client.register_plugin) take the place of bootsteps",
}


class TaskMaking:
    """The part of `Celery` that is about its tasks."""

    Task: Any
    conf: Conf
    main: str | None
    finalized: bool
    autofinalize: bool
    on_configure: signals.Signal
    on_after_configure: signals.Signal
    on_after_finalize: signals.Signal
    _tasks: Registry
    _lock: threading.RLock
    _discover: list[tuple[Any, str | None]]

    # -- tasks ------------------------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[..., Any], /) -> Any: ...
    @overload
    def task(self, **opts: Any) -> Callable[[Callable[..., Any]], Any]: ...
    def task(self, *args: Any, **opts: Any) -> Any:
        """Decorator: make a task of a function. See `Task` for the options.

        Args:
            bind: give the task itself as the first argument.
            name: default: the module and the name of the function.
            base: class to use in place of `Task`.
            autoretry_for: exceptions that are answered by `Task.retry`, ``retry_backoff``, ``retry_jitter`` and more.
            pydantic: validate arguments and result by the annotations.
        """
        if len(args) == 1 and callable(args[0]):
            return self._task_from_fun(args[0], **opts)
        if args:
            raise TypeError("@task() takes keywords only, or the function alone")
        return lambda function: self._task_from_fun(function, **opts)

    def _task_from_fun(
        self, function: Callable[..., Any], name: str | None = None, base: Any = None, bind: bool = False, **opts: Any
    ) -> Any:
        name = name or self.gen_task_name(function.__name__, function.__module__)
        known = self._tasks.get(name)
        if known is not None:
            if getattr(known, "__wrapped__", None) is not function:
                text = f"the task {name!r} was there already; the first is used"
                warnings.warn(text, DuplicateTaskNameWarning, stacklevel=3)
            return known
        kind = symbol(base) if base is not None else self.Task
        body = with_models(self, function, opts) if opts.get("pydantic") else function
        attributes = {
            "app": self,
            "abstract": False,
            "name": name,
            "bind": bind,
            "run": body if bind else staticmethod(body),
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__wrapped__": staticmethod(function),
            "__header__": staticmethod(function),
            "made_from": (base, dict(opts)),
            **{key: value for key, value in opts.items() if key not in _AUTORETRY and not key.startswith("pydantic")},
        }
        task = type(function.__name__, (kind,), attributes)()
        self._add(task)
        if opts.get("autoretry_for") or getattr(task, "autoretry_for", None):
            self._retry_by_itself(task)
        return task

    def _retry_by_itself(self, task: Any) -> None:
        options = {key: task.made_from[1].get(key, getattr(task, key, None)) for key in _AUTORETRY}
        retry_kwargs = dict(task.made_from[1].get("retry_kwargs") or getattr(task, "retry_kwargs", None) or {})
        given = {key: value for key, value in options.items() if value is not None}
        task.run = autoretrying(task, task.run, given.pop("autoretry_for"), retry_kwargs, **given)

    def register_task(self, task: Any, **options: Any) -> Any:
        """Add a task that is an instance, or a class, of `Task`."""
        task = task() if inspect.isclass(task) else task
        if not task.name:
            task.name = self.gen_task_name(type(task).__name__, type(task).__module__)
        type(task).app = task.app = self
        if getattr(task, "autoretry_for", None):
            task.made_from = (REGISTERED, {})
            self._retry_by_itself(task)
        self._add(task)
        return task

    def _add(self, task: Any) -> None:
        self._tasks[task.name] = task
        type(task).on_bound(self)
        if self.finalized:
            self._annotate(task)

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that has none of its own."""
        if module == "__main__" and self.main:
            module = self.main
        return ".".join(part for part in (module, name) if part)

    @property
    def tasks(self) -> Registry:
        """All tasks by name, with those of `shared_task`."""
        if not self.finalized and self.autofinalize:
            self.finalize(auto=True)
        return self._tasks

    def finalize(self, auto: bool = False) -> None:
        """Add tasks of `shared_task`, and apply ``task_annotations``."""
        with self._lock:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            self.finalized = True
            for name, make in BUILTINS.items():
                make(self, name)
            for make_shared in list(local.shared):
                make_shared(self)
            for task in list(self._tasks.values()):
                self._annotate(task)
        self.on_after_finalize.send(self)

    def _annotate(self, task: Any) -> None:
        for given in maybe_list(self.conf.task_annotations):
            if isinstance(given, Mapping):
                for name in ("*", task.name):
                    for key, value in (given.get(name) or {}).items():
                        setattr(task, key, value)
            else:
                for key, value in (given.annotate(task) or {}).items():
                    setattr(task, key, value)

    def autodiscover_tasks(self, packages: Any = None, related_name: str | None = "tasks", force: bool = False) -> None:
        """Import ``related_name`` of each package when a worker starts, or now with ``force``.

        Args:
            packages: names, or what returns them; default: Django's installed apps.
        """
        self._discover.append((packages, related_name))
        if force:
            self.import_tasks()

    def import_tasks(self) -> None:
        """Import all modules that are said to have tasks."""
        for module in (*maybe_list(self.conf.imports), *maybe_list(self.conf.include)):
            importlib.import_module(module)
        found, self._discover = self._discover, []
        for packages, related_name in found:
            names = packages() if callable(packages) else packages
            for package in discovery.django_packages() if names is None else names:
                import_related(package, related_name)
        signals.import_modules.send(self)
        self.on_configure.send(self)
        self.on_after_configure.send(self)
