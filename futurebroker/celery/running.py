"""How a task runs where it runs: found by its name, with its request, its handlers and its signals around it."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import importlib
import inspect
import logging
import pickle
import signal
import sys
import threading
import traceback as traceback_module
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from types import CoroutineType, FrameType
from typing import Any

import cloudpickle

from futurebroker.celery import local, signals, states
from futurebroker.celery.context import Context, Parts, spread
from futurebroker.celery.definitions import Definition
from futurebroker.celery.exceptions import Ignore, NotRegistered, Reject, Retry, SoftTimeLimitExceeded, chord_error
from futurebroker.celery.following import settle
from futurebroker.celery.routing import changed_options
from futurebroker.exceptions import FuturebrokerError, Reschedule
from futurebroker.inside import NO_TASK, current_task
from futurebroker.protocol.refs import TaskRef
from futurebroker.protocol.serialize import dumps, load_failure
from futurebroker.worker.coroutines import CoroutineRunner
from futurebroker.worker.failures import failure_of
from futurebroker.worker.later import NO_TERMS, RunAgain, current_terms, pause

logger = logging.getLogger("futurebroker.celery")

_coroutines = CoroutineRunner()


class TaskCall:
    """What is sent of a task: its name and where to find it; of tasks in ``__main__`` also what they are.

    Args:
        definitions: all tasks of ``__main__``, pickled; see `define`.
    """

    __slots__ = ("_task", "definitions", "module", "name")

    def __init__(self, name: str, module: str, definitions: bytes = b"") -> None:
        self.name = name
        self.module = module
        self.definitions = definitions
        self._task: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskCall, (self.name, self.module, self.definitions)

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and type(args[0]) is Delivered:
            return args[0].value
        task = self._task
        if task is None or task.app.closed:
            task = self.find()
        return run_task(task, args, kwargs)

    def find(self) -> Any:
        """The task itself, where it runs."""
        self._task = find_task(self)
        return self._task


class Delivered:
    """The argument of a task that was replaced: the result of its replacement."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Replaced(Ignore):
    """A task goes on as the tasks that made ``keys``."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class ExceptionInfo:
    """An exception as handlers and signals get it: ``exception``, and ``traceback`` as text."""

    def __init__(self, error: BaseException) -> None:
        self.type = type(error)
        self.exception = error
        self.tb = error.__traceback__
        self.traceback = "".join(traceback_module.format_exception(error))

    def __str__(self) -> str:
        return self.traceback


def define(tasks: list[Any]) -> bytes:
    """What tasks of ``__main__`` are, for processes whose ``__main__`` is another."""
    return cloudpickle.dumps([Definition.of(task) for task in tasks], 5)  # type: ignore[no-any-return]


def find_task(call: TaskCall) -> Any:
    """The task that is called.

    Raises:
        NotRegistered: no app in this process has it, nor does its module make one that has.
    """
    task = _registered(call.name)
    if task is None and call.module and call.module != "__main__":
        try:
            importlib.import_module(call.module)
        except ImportError as error:
            logger.warning("the module %s of the task %s can't be imported: %s", call.module, call.name, error)
        task = _registered(call.name)
    if task is None and call.definitions:
        for definition in pickle.loads(call.definitions):
            definition.register()
        task = _registered(call.name)
    if task is None:
        known = sorted({name for app in local.apps() for name in app.tasks})
        near = difflib.get_close_matches(call.name, known, n=3, cutoff=0.4)
        signals.task_unknown.send(None, name=call.name, id=current_task.get(NO_TASK)[1], message=None, exc=None)
        raise NotRegistered(call.name, near)
    return task


def _registered(name: str) -> Any:
    current = local.current_app()
    for app in (current, *(app for app in local.apps() if app is not current)):
        task = app.tasks.get(name)
        if task is not None:
            return task
    return None


# -- one run ---------------------------------------------------------------------------------------------------------


def run_task(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run ``task`` as the current task of this executor.

    Raises:
        RunAgain: it asked to be.
    """
    place, key, _, _ = current_task.get(NO_TASK)
    known, terms = current_terms.get()
    if known != key:
        terms = NO_TERMS
    info: dict[str, Any] = {
        "exchange": "", "routing_key": None, "priority": None, "redelivered": terms.redelivered,
    }  # fmt: skip
    request = Context(
        {
            "id": key, "args": args, "kwargs": kwargs, "task": task.name, "retries": terms.retries,
            "called_directly": False, "hostname": place.name if place is not None else None, "root_id": key,
            "correlation_id": key, "timelimit": (terms.hard or None, terms.soft or None), "delivery_info": info,
        }
    )  # fmt: skip
    if args and type(args[0]) is list:
        args = (spread(args[0]), *args[1:])
    if terms.request:
        fields = pickle.loads(terms.request)
        info["routing_key"], info["priority"] = fields.pop("queue", None), fields.pop("priority", None)
        if fields.pop("is_errback", False) and terms.failure is not None:
            args = _errback_arguments(task, args, terms.failure)
        request.update(fields)
    if not terms.soft:
        return _run_to_its_end(task, args, kwargs, request)
    with soft_limit(terms.soft):
        return _run_to_its_end(task, args, kwargs, request)


def _run_to_its_end(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], request: Context) -> Any:
    try:
        value = trace(task, args, kwargs, request)
    except Retry as retry:
        raise _again(task.app, retry, request, request.hostname or "") from None
    except Replaced as replaced:
        raise RunAgain(
            args=dumps(((Delivered(TaskRef(0)),), {})), inputs=(replaced.key,), retries=request.retries
        ) from None
    except Reject as reject:
        if reject.requeue:
            raise RunAgain(delay=0.0, retries=request.retries) from None
        raise
    except Reschedule:
        raise _rescheduled(request) from None
    if "added" not in request.__dict__:
        return value
    settle(task, request)
    if request.added:
        raise _together(task, value, request)
    return value


def _together(task: Any, value: Any, request: Context) -> RunAgain:
    """The task is done when those are that it added to its chord."""
    task.app.sender.client.fence()
    parts = Parts([value, *(TaskRef(place) for place in range(len(request.added)))])
    return RunAgain(args=dumps(((Delivered(parts),), {})), inputs=tuple(request.added), retries=request.retries)


def _rescheduled(request: Context) -> RunAgain:
    """It is no retry, and is counted apart from them."""
    known, terms = current_terms.get()
    fields = pickle.loads(terms.request) if terms.request and known == request.id else {}
    before = fields.get("rescheduled", 0)
    return RunAgain(pause(before), request.retries, request=pickle.dumps({**fields, "rescheduled": before + 1}, 5))


def _errback_arguments(task: Any, args: tuple[Any, ...], failure: Any) -> tuple[Any, ...]:
    if not takes_failure(task):
        return args
    result, error = task.app.AsyncResult(args[0]), load_failure(failure)
    meta = result._meta()
    fields = {"id": result.id, "called_directly": False, "task": meta.get("name"), "retries": meta.get("retries", 0)}
    fields |= {"parent_id": meta.get("parent"), "root_id": task.request.root_id, "hostname": failure.worker}
    if meta.get("joins") and failure.key != result.id:
        error, fields["args"], fields["kwargs"] = chord_error(failure.key, error), (), {}
    else:
        fields["args"], fields["kwargs"] = result.args, result.kwargs
    return (Context(fields), error, failure.traceback, *args[1:])


def takes_failure(task: Any) -> bool:
    """As in Celery, an errback that takes several arguments and isn't bound gets request, exception and traceback."""
    return not task.bind and _takes_several(task.run)


def _takes_several(function: Any) -> bool:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters):
        return True
    return sum(one.kind in positional for one in parameters) > 1


def _again(app: Any, retry: Retry, request: Context, worker: str) -> RunAgain:
    delay = max(0.0, float(retry.when or 0.0))
    changed = getattr(retry, "arguments", None)
    error = retry.exc if retry.exc is not None else retry
    failure = failure_of(error, str(request.id), worker)
    arguments = None if changed is None else dumps(changed)
    options, fields = changed_options(app, retry.options), None
    if options:
        _, terms = current_terms.get()
        known = pickle.loads(terms.request) if terms.request else {}
        shown = {name: options[name] for name in ("queue", "priority") if name in options}
        if shown.get("queue") == "":
            shown["queue"] = "celery"
        fields = pickle.dumps({**known, **shown}, 5)
    return RunAgain(delay, request.retries + 1, arguments, (), failure, options, fields)


def trace(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], request: Context) -> Any:
    """Run a task with its handlers and signals in Celery's order; returns and raises what it does."""
    task_id = request.id
    token = local.push_task(task)
    requests = task.push_request(request)
    state, value = states.SUCCESS, None
    began = perf_counter() if signals.task_success.connected else 0.0
    try:
        # Nobody listens to most signals: asking first saves most of what tiny tasks cost.
        if signals.task_prerun.connected:
            signals.task_prerun.send(task, task_id=task_id, task=task, args=args, kwargs=kwargs)
        try:
            task.before_start(task_id, args, kwargs)
            if type(task).__call__ is task.plain_call:
                value = task.run(*args, **kwargs)
            else:
                request.update(run_by="trace")
                value = task(*args, **kwargs)
            if type(value) is CoroutineType:
                value = _coroutines.run(value)
        except Retry as retry:
            state, value = states.RETRY, retry
            info = ExceptionInfo(retry)
            signals.task_retry.send(task, request=request, reason=retry, einfo=info)
            _guarded(task.on_retry, retry.exc or retry, task_id, args, kwargs, info)
            raise
        except Reschedule:
            state = states.RETRY
            raise
        except Reject as reject:
            state, value = states.REJECTED, reject
            signals.task_rejected.send(task, message=None, exc=reject)
            raise
        except Ignore as ignore:
            state, value = states.IGNORED, ignore
            raise
        except Exception as error:
            state, value = states.FAILURE, error
            _tell_failure(task, task_id, args, kwargs, error)
            raise
        try:
            task.on_success(value, task_id, args, kwargs)
        except Exception:
            logger.exception("the handler %r raised", task.on_success)
        if signals.task_success.connected:
            signals.task_success.send(task, result=value, runtime=perf_counter() - began)
        try:
            task.after_return(state, value, task_id, args, kwargs, None)
        except Exception:
            logger.exception("the handler %r raised", task.after_return)
        return value
    finally:
        if signals.task_postrun.connected:
            signals.task_postrun.send(
                task, task_id=task_id, task=task, args=args, kwargs=kwargs, retval=value, state=state
            )
        task.app.requests.reset(requests)
        local.pop_task(token)


def _tell_failure(
    task: Any, task_id: str | None, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> None:
    """Call handlers and signals for a task that failed."""
    info = ExceptionInfo(error)
    _guarded(task.on_failure, error, task_id, args, kwargs, info)
    signals.task_failure.send(
        task, task_id=task_id, exception=error, args=args, kwargs=kwargs, traceback=info.tb, einfo=info
    )
    _guarded(task.after_return, states.FAILURE, error, task_id, args, kwargs, info)


def _guarded(handler: Any, *args: Any) -> None:
    """Call a handler whose own exception must not change what became of the task."""
    try:
        handler(*args)
    except Exception:
        logger.exception("the handler %r raised", handler)


# -- soft limits -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def soft_limit(seconds: float) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded within, after ``seconds``; 0: never.

    In the main thread a signal interrupts also what waits; in other threads it takes effect with the next step of
    Python code.
    """
    if not seconds:
        yield
        return
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGALRM, partial(_alarm, seconds))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return
    ended = threading.Lock()
    is_over = [False]
    thread = threading.get_ident()

    def interrupt() -> None:
        with ended:
            if not is_over[0]:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(SoftTimeLimitExceeded)
                )

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with ended:
            is_over[0] = True
        timer.cancel()


def _alarm(seconds: float, _number: int, _frame: FrameType | None) -> None:
    raise SoftTimeLimitExceeded(seconds)


def import_app(name: str) -> Any:
    """The app that ``-A name`` means: ``module``, ``module:attribute``, or a package with a module ``celery``.

    Raises:
        FuturebrokerError: there is none.
    """
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise FuturebrokerError(f"-A {name}: {module_name} can't be imported: {error}") from error
    if attribute:
        found = getattr(module, attribute, None)
        if found is None:
            raise FuturebrokerError(f"-A {name}: the module {module_name} has no {attribute!r}")
        return found
    for attribute in ("app", "celery"):
        found = getattr(module, attribute, None)
        if found is not None and hasattr(found, "tasks"):
            return found
    for found in vars(module).values():
        if type(found).__name__ == "Celery" and hasattr(found, "tasks"):
            return found
    if hasattr(module, "__path__"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{module_name}.celery")
            return import_app(f"{module_name}.celery")
    raise FuturebrokerError(f"-A {name}: no app in {module_name}; name it with -A {module_name}:NAME")
