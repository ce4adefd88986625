"""`Task`: a function that is called on workers, with the options, handlers and variations that Celery's tasks have."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from futurebroker.celery import canvas, local, stamping, states
from futurebroker.celery.context import Context
from futurebroker.celery.eagerly import EagerResult
from futurebroker.celery.exceptions import Ignore, MaxRetriesExceededError, Retry
from futurebroker.celery.running import ExceptionInfo, Replaced, takes_failure, trace
from futurebroker.celery.sending import moment, to_json
from futurebroker.celery.shapes import Shape
from futurebroker.celery.signature import Signature, maybe_list, uuid
from futurebroker.exceptions import Reschedule
from futurebroker.protocol.serialize import dumps
from futurebroker.worker.later import tell_scheduler

#: options of `Celery.task` that become attributes as they are
OPTIONS = (
    "acks_late", "acks_on_failure_or_timeout", "default_retry_delay", "expires", "ignore_result", "max_retries",
    "priority", "queue", "rate_limit", "rate_limit_for_all", "reject_on_worker_lost", "resultrepr_maxsize",
    "send_events", "serializer", "soft_time_limit", "store_errors_even_if_ignored", "store_eager_result", "throws",
    "time_limit", "track_started", "trail", "typing",
)  # fmt: skip


class Task:
    """A task. Subclass it for handlers and resources of one's own; there is one instance per process and task."""

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError: ClassVar[type[Exception]] = ConnectionError
    Strategy = None
    abstract = True

    name: Any = None
    app: Any = None
    bind = False
    typing: Any = True
    max_retries: int | None = 3
    default_retry_delay: float = 3 * 60
    acks_late: bool | None = None
    reject_on_worker_lost: bool | None = None
    rate_limit: Any = None
    rate_limit_for_all: bool | None = None
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    track_started: bool | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    serializer: str | None = None
    expires: Any = None
    priority: int | None = None
    queue: str | None = None
    throws: tuple[type[Exception], ...] = ()
    trail = True
    send_events = True
    _shape: Shape | None = None

    # -- what it runs -----------------------------------------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The body; subclasses and `Celery.task` define it."""
        raise NotImplementedError("Tasks must define the run method.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here and now."""
        request = self.request
        if "run_by" in request.__dict__:  # the run that `trace` began, by a `__call__` of one's own
            del request.__dict__["run_by"]
            return self.run(*args, **kwargs)
        self.push_request(Context(args=args, kwargs=kwargs, called_directly=True))
        token = local.push_task(self)
        try:
            return self.run(*args, **kwargs)
        finally:
            local.pop_task(token)
            self.pop_request()

    #: what `trace` need not go through: whoever puts another in its place has it called
    plain_call = staticmethod(__call__)

    @property
    def run_module(self) -> str:
        """The module that makes this task."""
        return str(getattr(self, "__module__", "") or "")

    @property
    def request_stack(self) -> tuple[Context, ...]:
        """Requests of the runs of this task in this context, innermost last."""
        return self.app.requests.get().get(self.name, ())  # type: ignore[no-any-return]

    @property
    def request(self) -> Context:
        """What is known of the current run."""
        stack = self.request_stack
        return stack[-1] if stack else Context()

    def push_request(self, *args: Any, **kwargs: Any) -> Any:
        """A run begins; resetting ``app.requests`` to what this returns ends it, as `pop_request` does."""
        request = args[0] if args and isinstance(args[0], Context) else Context(*args, **kwargs)
        requests, name = self.app.requests, self.name
        known = requests.get()
        return requests.set({**known, name: (*known.get(name, ()), request)})

    def pop_request(self) -> None:
        """A run has ended."""
        known = self.app.requests.get()
        self.app.requests.set({**known, self.name: known.get(self.name, ())[:-1]})

    @classmethod
    def bind_app(cls, app: Any) -> Any:
        """Celery's hook for classes of tasks."""
        cls.app = app
        cls.on_bound(app)
        return app

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Called when the class gets its app."""

    # -- sending ----------------------------------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with these arguments."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it; returns an `AsyncResult` at once.

        Args:
            link: signatures that are called with the result.
            link_error: signatures that are called when it fails.
            options: ``countdown`` (seconds), ``eta`` (datetime), ``expires`` (seconds or datetime), ``priority``,
                ``queue``, ``headers``, ``ignore_result``, ``time_limit``, ``soft_time_limit``, ``rate_limit``.

        Raises:
            TypeError: the task doesn't take these arguments.
            ValueError: ``soft_time_limit`` is longer than ``time_limit``.
        """
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        shape = self._shape
        if kwargs or shape is None or not shape.least <= len(args) <= shape.most:
            self.check_arguments(args, kwargs)
        own_id = task_id or uuid()
        if not (task_id or options or link or link_error or shadow or self.expires or local.running_tasks()):
            sent = self.app.send_plain(self, args, kwargs, own_id)
            if sent is not None:
                return sent
        if self.app.conf.task_always_eager:
            return self.apply(args, kwargs, task_id=own_id, link=link, link_error=link_error, by_delay=True, **options)
        if self.expires is not None:
            options.setdefault("expires", self.expires)
        given = {"task_id": task_id, "link": link, "link_error": link_error, "shadow": shadow}
        options.update({name: value for name, value in given.items() if value is not None})
        return self.app.send_canvas(Signature(self, args, kwargs, {"task_id": own_id}, app=self.app), (), {}, options)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Send it once Django's current transaction is committed, at once without one; it has no result yet."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """As `delay_on_commit`, with `apply_async`'s arguments."""
        from django.db import transaction  # noqa: PLC0415 - Django is the caller's

        transaction.on_commit(lambda: self.apply_async(*args, **kwargs))

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError if the body doesn't take them."""
        if self.typing and not self.app.loose:
            try:
                shape = self._shape
                if shape is None:
                    shape = self._shape = Shape(self.run)
                shape.check(args, kwargs)
            except TypeError as error:
                raise TypeError(f"{self.name}() {error}") from None
            except ValueError:  # a builtin without a signature
                return

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int = 0,
        throw: bool | None = None,
        by_delay: bool = False,
        **options: Any,
    ) -> EagerResult:
        """Run it here, with handlers, signals, retries (without their delays) and callbacks.

        Args:
            throw: raise what it raises; default: ``task_eager_propagates``.
        """
        args = tuple(args or ())
        given: dict[str, Any] = dict(kwargs or {})
        task_id = task_id or uuid()
        conf = self.app.conf
        throw = conf.task_eager_propagates if throw is None else throw
        if by_delay and (options.get("serializer") or self.serializer or conf.task_serializer) == "json":
            args_here, given = to_json(args, given)
            args = tuple(args_here)
        fields = {
            "id": task_id, "args": args, "kwargs": given, "task": self.name, "retries": retries, "is_eager": True,
            "called_directly": False, "root_id": options.get("root_id") or task_id, "headers": options.get("headers"),
            "parent_id": options.get("parent_id"), "group": options.get("group_id"), "correlation_id": task_id,
            "delivery_info": {"is_eager": True, "exchange": None, "routing_key": None, "priority": None},
            "callbacks": maybe_list(link), "errbacks": maybe_list(link_error), "hostname": "eager",
        }  # fmt: skip
        if options.get(stamping.NAMES):
            fields["stamped_headers"], fields["stamps"] = options[stamping.NAMES], stamping.stamps_of(options)
        try:
            value = trace(self, args, given, Context(fields))
        except Retry as retry:
            if retry.sig is None:
                raise
            return retry.sig.apply(retries=retries + 1, throw=throw)  # type: ignore[no-any-return]
        except Reschedule:
            return self.apply(args, given, link, link_error, task_id, retries, throw, **options)
        except Replaced as replaced:
            value = replaced.args[0]
        except Ignore:
            return EagerResult(task_id, None, states.PENDING, name=self.name, app=self.app)
        except Exception as error:
            if throw:
                raise
            info = ExceptionInfo(error)
            for errback in maybe_list(link_error):
                sig = canvas.maybe_signature(errback, self.app)
                sig.apply((Context(fields), error, info.tb) if takes_failure(sig.type) else (task_id,))
            return EagerResult(task_id, error, states.FAILURE, info.traceback, self.name, self.app)
        for callback in maybe_list(link):
            canvas.maybe_signature(callback, self.app).apply((value,))
        return EagerResult(task_id, value, states.SUCCESS, name=self.name, app=self.app)

    # -- signatures -------------------------------------------------------------------------------------------------

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature with these arguments."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """An immutable signature."""
        return self.signature(args, kwargs, immutable=True)

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """A signature; see `Signature`."""
        starkwargs.setdefault("app", self.app)
        return Signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def chunks(self, it: Iterable[Any], n: int) -> canvas.chunks:
        """Calls with each of ``it``, ``n`` a task."""
        return canvas.chunks(self.s(), it, n, app=self.app)

    def map(self, it: Iterable[Any]) -> canvas.xmap:
        """One task that calls this one with each of ``it``."""
        return canvas.xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> canvas.xstarmap:
        """One task that calls this one with each tuple of ``it``."""
        return canvas.xstarmap(self.s(), it, app=self.app)

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, **extra_options: Any
    ) -> Signature:
        """The call of the current run, as a signature."""
        request = self.request if request is None else request
        args = request.args if args is None else args
        kwargs = request.kwargs if kwargs is None else kwargs
        options = {"task_id": request.id, "link": request.callbacks, "link_error": request.errbacks, **extra_options}
        return self.signature(args, kwargs, options={name: value for name, value in options.items() if value})

    subtask_from_request = signature_from_request

    # -- while it runs ----------------------------------------------------------------------------------------------

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run this task again, later, under the same id; raises `Retry` to end this run.

        Args:
            args, kwargs: other arguments than those it has.
            exc: why; raised in place of MaxRetriesExceededError.
            countdown: seconds from now; default `default_retry_delay`.
            options: ``queue``, ``priority``, ``time_limit`` and ``soft_time_limit`` of the next run and those after it.
            throw: False returns the `Retry`, for the task to raise.

        Raises:
            MaxRetriesExceededError: it was run again ``max_retries`` times; None is any number.
        """
        request = self.request
        most = self.override_max_retries if max_retries is None else max_retries
        if request.called_directly:
            if exc is not None:
                raise exc
            raise Retry("Task can be retried: retry() works inside a task, and this one was called as a function")
        wait = max(0.0, moment(eta, self.app) - time.time()) if eta is not None else countdown
        wait = self.default_retry_delay if wait is None else wait
        retries = request.retries + 1
        if most is not None and retries > most:
            if exc is not None:
                raise exc
            raise MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{request.args} kwargs:{request.kwargs}",
                task_args=request.args,
                task_kwargs=request.kwargs,
            )
        again = Retry(exc=exc, when=wait, is_eager=bool(request.is_eager))
        changed = args is not None or kwargs is not None
        call = (
            tuple(request.args if args is None else args),
            dict(request.kwargs if kwargs is None else kwargs),
        )
        if changed:
            again.arguments = call  # type: ignore[attr-defined]
        again.options = {name: value for name, value in options.items() if value is not None}
        if request.is_eager:
            again.sig = self.signature_from_request(request, *call, **options)
        if throw:
            if exc is not None:
                raise again from exc
            raise again
        return again

    @property
    def override_max_retries(self) -> int | None:
        """How often it may be run again."""
        return self.__dict__.get("_override_max_retries", self.max_retries)

    def replace(self, sig: Any, visitor: Any = None) -> Any:
        """Let ``sig`` take this task's place: its result becomes this task's, and what follows goes on with it.

        Raises:
            Ignore: always, to end this run.
        """
        sig = canvas.maybe_signature(sig, self.app, clone=True)
        if isinstance(sig, (canvas.group, canvas.chunks)):
            inner = sig.group() if isinstance(sig, canvas.chunks) else sig
            sig = canvas.chord(inner, self.app.tasks["celery.accumulate"].s(), app=self.app)
        if visitor is not None or self.request.stamps:
            names = {"stamped_headers": self.request.stamped_headers or []}
            sig.stamp(visitor, append_stamps=True, **names, **(self.request.stamps or {}))
        for callback in maybe_list(self.request.callbacks) if self.request.is_eager else []:
            sig.link(callback)
        if self.request.is_eager:
            raise Replaced(sig.apply().get(disable_sync_subtasks=False))
        self.on_replace(sig)
        raise Replaced(self.app.send_replacement(sig))

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Let the chord's body wait for ``sig`` too, whose result comes behind those of the header.

        Args:
            lazy: the caller sends it, before this task ends.

        Raises:
            ValueError: this task isn't one of a group.
        """
        request = self.request
        if request.group is None:
            raise ValueError("Current task is not member of any chord")
        sig = canvas.maybe_signature(sig, self.app)
        if request.is_eager:
            raise NotImplementedError("add_to_chord() needs a worker; task_always_eager has no chord to add to")
        result = sig.freeze() if lazy else self.app.AsyncResult(self.app.send_replacement(sig.clone()))
        request.added.append(result.id)
        return result

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Give this task a state of its own until it ends; `AsyncResult.info` is then ``meta``."""
        request = self.request
        if request.is_eager or request.id is None:
            return
        tell_scheduler("state", task_id or request.id, [state or states.PENDING, dumps(meta)])

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> None:
        """Events of one's own are not sent here; the cluster's page shows what Celery's events tell."""

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
        """The result of a run of this task."""
        return self.app.AsyncResult(task_id, task_name=self.name, **kwargs)

    # -- handlers ---------------------------------------------------------------------------------------------------

    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
        """Called before the body."""

    def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
        """Called after the body returned."""

    def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when it is to be run again."""

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the body raised."""

    def after_return(self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after the end, but not after a retry."""

    def on_replace(self, sig: Any) -> None:
        """Called when it is replaced."""

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        """Another name to show."""
        return None

    # -- Python's own -----------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Any:
        """What Celery keeps results in; here the scheduler does."""
        return self.app.backend

    def __reduce__(self) -> tuple[Any, ...]:
        return self.app.task_reference(self)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {self.app.main or repr(self.app)}>"


def utc_now() -> datetime:
    """Now, with its zone."""
    return datetime.now(UTC)
