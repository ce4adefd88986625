"""`Celery`: an app with its tasks, its settings, and the client through which they are sent."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Any, overload
from zoneinfo import ZoneInfo

from futurebroker.celery import canvas, discovery, groups, local, results, signals
from futurebroker.celery.compiler import GroupHandle, Handle, compile_canvas
from futurebroker.celery.conf import Conf
from futurebroker.celery.control import Control
from futurebroker.celery.eager import apply_canvas
from futurebroker.celery.exceptions import AlwaysEagerIgnored, ImproperlyConfigured
from futurebroker.celery.making import ABSENT, TaskMaking
from futurebroker.celery.registry import Backend, Registry, symbol
from futurebroker.celery.routing import queue_of, route_of
from futurebroker.celery.running import TaskCall, define
from futurebroker.celery.sending import NAMED, Sender, seconds
from futurebroker.celery.signals import after_task_publish as after_publish
from futurebroker.celery.signals import before_task_publish as before_publish
from futurebroker.celery.signature import Signature, uuid
from futurebroker.celery.task import OPTIONS, Task
from futurebroker.client.inside import get_client
from futurebroker.inside import current_task
from futurebroker.local import Client, LocalCluster


class Celery(TaskMaking):
    """An app. Its tasks run on the cluster that ``broker`` leads to.

    ``broker`` is what `Client` takes: the address of a scheduler, or of the RabbitMQ it uses. Without one the app uses
    FUTUREBROKER_BROKER_URL, then the program's current `Client`, and then a `LocalCluster` of its own; ``memory://``
    is a `LocalCluster` inside this process. There is no backend to choose: the scheduler keeps results.
    """

    Task: Any = Task
    task_cls: Any = Task

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: str | None = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | None = None,
        include: Iterable[str] | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Any = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        **kwargs: Any,
    ) -> None:
        self.main = main
        self.conf = Conf()
        self.closed = False
        #: names this app among all others
        self.oid = self.thread_oid = uuid()
        self.finalized = False
        self.autofinalize = autofinalize
        self.loose = not strict_typing
        #: (app-wide) requests of running tasks, by task
        self.requests: ContextVar[Mapping[str, tuple[Any, ...]]] = ContextVar("requests", default=MappingProxyType({}))
        self.on_configure = signals.Signal("on_configure")
        self.on_after_configure = signals.Signal("on_after_configure")
        self.on_after_finalize = signals.Signal("on_after_finalize")
        self.on_after_fork = signals.Signal("on_after_fork")
        self.user_options: dict[str, set[Any]] = {"worker": set(), "beat": set(), "preload": set()}
        self.control = Control(self)
        self._tasks = Registry()
        self._lock = threading.RLock()
        self._sender: Sender | None = None
        self._owns_client = False
        self._discover: list[tuple[Any, str | None]] = []
        self._definitions: tuple[int, bytes] = (0, b"")
        self._ways = _Ways(self.conf)
        if task_cls is not None:
            self.task_cls = symbol(task_cls)
        settings = {"broker_url": broker, "result_backend": backend, "include": tuple(include or ()) or None}
        for name, value in {**settings, **dict(changes or {}), **kwargs}.items():
            if value is not None:
                self.conf[name] = value
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        self.Task = type("Task", (self.task_cls,), {"app": self, "abstract": True, "__module__": "celery.app.task"})
        local.add_app(self)
        if set_as_current:
            self.set_current()
        discovery.watch_django(self)

    # -- settings ---------------------------------------------------------------------------------------------------

    def config_from_object(self, obj: Any, silent: bool = False, force: bool = False, namespace: Any = None) -> None:
        """Take settings from an object, a mapping, or the name of a module; read when first needed.

        Args:
            namespace: prefix of the settings that are meant, as ``"CELERY"`` in Django's.
        """
        self.conf.read_later(obj, namespace)
        if force:
            len(self.conf)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """As `config_from_object`, of the module that an environment variable names."""
        name = os.environ.get(variable_name)
        if not name:
            if silent:
                return False
            raise ImproperlyConfigured(f"the environment variable {variable_name!r} is not set")
        self.config_from_object(name, force=force)
        return True

    def add_defaults(self, fun: Any) -> None:
        """Settings, or what returns them, that count where nothing else is set."""
        self.conf.add_defaults(fun() if callable(fun) else fun)

    @property
    def timezone(self) -> tzinfo:
        """Of times without a zone."""
        name = self.conf.timezone
        if isinstance(name, tzinfo):
            return name
        return ZoneInfo(name) if name else UTC

    def now(self) -> datetime:
        """Now, in the app's time zone."""
        return datetime.now(self.timezone)

    def uses_utc_timezone(self) -> bool:
        """Whether times are UTC."""
        return self.timezone == UTC

    # -- sending ----------------------------------------------------------------------------------------------------

    @property
    def sender(self) -> Sender:
        """What sends for this app, connected when first needed; inside a task, over its worker's connection."""
        inside = current_task.get(None)
        if inside is not None and inside[0].host is not None:
            client = get_client()
            known: Sender | None = getattr(client, "celery_sender", None)
            if known is None or known.app is not self:
                known = Sender(self, client)
                client.celery_sender = known  # type: ignore[attr-defined]
            return known
        with self._lock:
            if self._sender is None or self._sender.client.status != "running":
                self._sender = Sender(self, self._make_client())
            return self._sender

    def _make_client(self) -> Client:
        url = self.conf.broker_url
        if url is None:
            try:
                return Client.current()
            except ValueError:
                pass
        self._owns_client = True
        if url is not None and str(url).startswith("memory"):
            cluster = LocalCluster(processes=False, executors_per_worker=2)
            return _OwnedClient(cluster, set_as_default=False)
        return Client(url, set_as_default=False)

    @property
    def client(self) -> Client:
        """The `Client` of this app: for futures, and for questions about the cluster."""
        return self.sender.client

    def use_client(self, client: Client) -> None:
        """Send through this client from now on."""
        self._sender = Sender(self, client)
        self._owns_client = False

    def call_of(self, name: str) -> TaskCall:
        """What is sent of a task."""
        task = self.tasks.get(name)
        if task is None:
            return TaskCall(name, "")
        if task.run_module != "__main__":
            return TaskCall(name, task.run_module)
        mine = [one for one in self._tasks.values() if one.run_module == "__main__"]
        if self._definitions[0] != len(mine):
            self._definitions = (len(mine), define(mine))
        return TaskCall(name, "__main__", self._definitions[1])

    def route(self, name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What ``task_routes`` says of a task."""
        return route_of(self, name, options)

    def queue_name(self, queue: Any) -> str:
        """The queue of a task, which must be known unless ``task_create_missing_queues``."""
        return queue_of(self, queue)

    def send_plain(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], task_id: str) -> Any:
        """A call without options, outside of tasks, the shortest way; None if it must take another."""
        ways = self._ways
        if ways.version != self.conf.version:
            ways = self._ways = _Ways(self.conf)
        if not ways.short or task.serializer == "json" or before_publish.connected or after_publish.connected:
            return None
        sender = self._sender
        if sender is None or current_task.get(None) is not None or sender.client.status != "running":
            sender = self.sender
        future = sender.send(task, task.name, task_id, args, kwargs, ways.version)
        ignored = task.ignore_result
        if ignored is None:
            ignored = ways.ignored
        return results.AsyncResult(task_id, None, None, self, None, future=future, ignored=bool(ignored))

    def _ignores(self, task: Any, options: Mapping[str, Any]) -> Any:
        for value in (options.get("ignore_result"), getattr(task, "ignore_result", None)):
            if value is not None:
                return value
        return self.conf.task_ignore_result

    def send_canvas(
        self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Send a signature as one graph; returns its result."""
        if self.conf.task_always_eager:
            return self.apply_canvas(sig, args, kwargs, options)
        if options.get("task_id") and not local.running_tasks() and not isinstance(sig, canvas.Composed):
            options = {**options, NAMED: True}
        graph, handle = compile_canvas(sig, args, kwargs, options)
        sender = self.sender
        for spec in graph:
            task = self.tasks.get(spec.name)
            if task is not None and not spec.inputs and not isinstance(sig, (canvas.chain, canvas.group)):
                task.check_arguments(spec.args, spec.kwargs)
            headers = {"id": spec.key, "task": spec.name, **(spec.options.get("headers") or {})}
            body: Any = (spec.args, spec.kwargs, {})
            signals.before_task_publish.send(spec.name, body=body, exchange="", routing_key="", headers=headers)
        futures = sender.submit(graph, self.tasks.get)
        for spec in graph:
            signals.after_task_publish.send(
                spec.name, body=(spec.args, spec.kwargs, {}), exchange="", routing_key="", headers={"id": spec.key}
            )
        return self._result(handle, {spec.key: spec for spec in graph}, futures) if handle is not None else None

    def send_replacement(self, sig: Signature) -> str:
        """Send what takes the current task's place; returns the key of its last task, which the scheduler knows."""
        graph, handle = compile_canvas(sig)
        if handle is None or isinstance(handle, GroupHandle):
            raise TypeError("a task is replaced by something with one result")
        sender = self.sender
        sender.submit(graph, self.tasks.get)
        sender.client.fence()  # type: ignore[attr-defined]
        return handle.id

    def _result(self, handle: Handle, specs: dict[str, Any], futures: dict[str, Any], last: bool = True) -> Any:
        before = handle.parent
        # Made when it is asked for: of a long chain nobody looks at most.
        parent = None if before is None else results.Later(lambda: self._result(before, specs, futures, last=False))
        if isinstance(handle, GroupHandle):
            children = [self._result(child, specs, futures, last) for child in handle.children]
            return self.GroupResult(handle.id, children, parent=parent.make() if parent is not None else None)
        spec = specs[handle.id]
        task = self.tasks.get(spec.name)
        return self.AsyncResult(
            handle.id,
            parent=parent,
            future=futures[handle.id] if last else None,
            joins=spec.joins,
            ignored=bool(self._ignores(task, spec.options)),
        )

    def apply_canvas(
        self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Run a signature here."""
        return apply_canvas(self, sig, args, kwargs, options)

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> Any:
        """Send a task by its name, which this program need not know; ``task_always_eager`` changes nothing."""
        if self.conf.task_always_eager:
            warnings.warn("task_always_eager has no effect on send_task", AlwaysEagerIgnored, stacklevel=2)
        sig = Signature(name, tuple(args or ()), dict(kwargs or {}), app=self)
        given: dict[str, Any] = {"countdown": countdown, "eta": eta, "task_id": task_id or uuid()}
        if task_id and not local.running_tasks():
            given[NAMED] = True
        options.update({key: value for key, value in given.items() if value is not None})
        graph, handle = compile_canvas(sig, options=options)
        futures = self.sender.submit(graph, self.tasks.get)
        assert handle is not None
        return self._result(handle, {spec.key: spec for spec in graph}, futures)

    def signature(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature of this app."""
        kwargs["app"] = self
        return canvas.signature(*args, **kwargs)

    def AsyncResult(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
        """The result of a task, by its id."""
        return results.AsyncResult(*args, **{"app": self, **kwargs})

    def GroupResult(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
        """The results of a group."""
        return groups.GroupResult(*args, **{"app": self, **kwargs})

    def ResultSet(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
        """Several results."""
        return groups.ResultSet(*args, **{"app": self, **kwargs})

    # -- schedules --------------------------------------------------------------------------------------------------

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Any = (), kwargs: Any = None, name: str | None = None, **opts: Any
    ) -> str:
        """Have ``sig`` called by a schedule: seconds, a timedelta, or a `crontab`; returns the entry's name."""
        sig = canvas.maybe_signature(sig, self)
        name = name or repr(sig)
        entry = {
            "task": sig.task, "schedule": schedule, "args": (*sig.args, *args),
            "kwargs": {**sig.kwargs, **(kwargs or {})}, "options": {**sig.options, **opts},
        }  # fmt: skip
        self.conf.beat_schedule = {**self.conf.beat_schedule, name: entry}
        return name

    def __getattr__(self, name: str) -> Any:
        why = f": {ABSENT[name]}" if name in ABSENT else ""
        raise AttributeError(f"an app has no {name!r} here{why}")

    # -- its life ---------------------------------------------------------------------------------------------------

    def set_current(self) -> None:
        """Make this the app of `current_app`."""
        local.set_current_app(self)

    set_default = set_current

    @property
    def current_task(self) -> Any:
        """The task that runs here."""
        return local.current_task()

    current_worker_task = current_task

    @property
    def backend(self) -> Any:
        """Celery's place for results; here it only answers what is asked of it most."""
        return Backend(self)

    def close(self) -> None:
        """Leave the cluster, and end it if it was started for this app."""
        self.closed = True
        sender, self._sender = self._sender, None
        local.drop_app(self)
        if sender is not None and self._owns_client:
            sender.client.close()

    def __enter__(self) -> Celery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def task_reference(self, task: Any) -> tuple[Any, ...]:
        """How a task is pickled: by name, and found again where it is opened."""
        return found_task, (task.name, task.run_module)

    def __reduce__(self) -> tuple[Any, ...]:
        return app_like, (self.main, self.conf.changed())

    def __repr__(self) -> str:
        return f"<Celery {self.main or '__main__'} at {id(self):#x}>"

    def worker_main(self, argv: list[str] | None = None) -> None:
        """Run a worker for this app: ``futurebroker worker`` with these arguments."""
        run = importlib.import_module("futurebroker.cli.worker").worker
        arguments = [part for part in (argv if argv is not None else sys.argv[1:]) if part != "worker"]
        run.main(arguments, standalone_mode=False)


class _Ways:
    """What settings say of calls without options, looked up once for each state of them."""

    __slots__ = ("ignored", "short", "version")

    def __init__(self, conf: Conf) -> None:
        #: whether they may be sent as they are
        self.short = not conf.task_always_eager and conf.task_serializer != "json"
        self.ignored = conf.task_ignore_result
        self.version = conf.version


class _OwnedClient(Client):
    """A client that ends the cluster made for it."""

    async def _close(self, blocking: bool) -> None:
        await super()._close(blocking)
        if self.cluster is not None:
            self.cluster.close()


def found_task(name: str, module: str) -> Any:
    """The task of that name, looked for when it is used."""

    def find() -> Any:
        for app in (local.current_app(), *local.apps()):
            task = app.tasks.get(name)
            if task is not None:
                return task
        if module and module != "__main__":
            importlib.import_module(module)
            for app in local.apps():
                if name in app.tasks:
                    return app.tasks[name]
        raise KeyError(name)

    try:
        return find()
    except KeyError:
        return local.Proxy(find)


def app_like(main: str | None, changed: dict[str, Any]) -> Any:
    """The app of this process with that name, or a new one with these settings."""
    for app in local.apps():
        if app.main == main:
            return app
    return Celery(main, changes={name: value for name, value in changed.items() if name != "broker_url"})


@overload
def shared_task(function: Callable[..., Any], /) -> Any: ...
@overload
def shared_task(**kwargs: Any) -> Callable[[Callable[..., Any]], Any]: ...
def shared_task(*args: Any, **kwargs: Any) -> Any:
    """Decorator: a task of every app there is and will be; what it returns is that of the current app."""

    def make(function: Callable[..., Any]) -> Any:
        name = kwargs.get("name")

        def register(app: Any) -> Any:
            return app._task_from_fun(function, **kwargs)

        local.shared.append(register)
        for app in local.apps():
            if app.finalized:
                register(app)

        def find() -> Any:
            app = local.current_app()
            return app.tasks[name or app.gen_task_name(function.__name__, function.__module__)]

        return local.Proxy(find)

    return make(args[0]) if len(args) == 1 and callable(args[0]) else make


def _default_app() -> Celery:
    return Celery("default", set_as_current=False)


local.set_default_factory(_default_app)

current_app: Any = local.Proxy(local.current_app)
__all__ = ["Celery", "OPTIONS", "Registry", "app_like", "current_app", "found_task", "seconds", "shared_task"]
