"""`AsyncResult`: the result of a task by Celery's names, states and exceptions."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from futurebroker.celery import local, states
from futurebroker.celery.context import Parts
from futurebroker.celery.dependencies import DependencyGraph, GraphFormatter
from futurebroker.celery.exceptions import IncompleteStream, chord_error
from futurebroker.client.futures import Future
from futurebroker.client.waiting import wait
from futurebroker.protocol.messages import Failure
from futurebroker.protocol.refs import TaskRef
from futurebroker.protocol.serialize import load_failure, loads_writable

#: whether `get` may be called inside a task
_may_wait: ContextVar[bool] = ContextVar("futurebroker_celery_join", default=False)


@contextlib.contextmanager
def allow_join_result() -> Iterator[None]:
    """Within this, a task may wait for results."""
    token = _may_wait.set(True)
    try:
        yield
    finally:
        _may_wait.reset(token)


@contextlib.contextmanager
def denied_join_result() -> Iterator[None]:
    """Within this, a task may not wait for results."""
    token = _may_wait.set(False)
    try:
        yield
    finally:
        _may_wait.reset(token)


def assert_will_not_block() -> None:
    """Raise RuntimeError inside a task, where waiting for others may wait for ever."""
    if local.current_task() is not None and not _may_wait.get():
        raise RuntimeError(
            "Never call result.get() within a task! See https://docs.celeryq.dev/en/latest/userguide/tasks.html"
            "#avoid-launching-synchronous-subtasks; allow_join_result() allows it here, where it can't block workers"
        )


class Later:
    """A result's parent, made when somebody asks for it."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


class AsyncResult:
    """The result of a task, by its id; unknown ids are PENDING.

    Args:
        future: of the same task, if this program has one.
        parent: the result of what came before it.
    """

    TimeoutError = TimeoutError

    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Any = None,
        parent: Any = None,
        *,
        future: Future[Any] | None = None,
        joins: bool = False,
        ignored: bool = False,
    ) -> None:
        if id is None:
            raise ValueError("AsyncResult requires valid id, not None")
        self.app = app or local.current_app()
        self.id = str(id)
        self._parent = parent
        self.task_name = task_name
        self.ignored = ignored
        self._future = future
        self._joins = joins
        self._final: dict[str, Any] | None = None

    @property
    def parent(self) -> Any:
        """The result of what came before it."""
        if type(self._parent) is Later:
            self._parent = self._parent.make()
        return self._parent

    @parent.setter
    def parent(self, parent: Any) -> None:
        self._parent = parent

    # -- the two faces ----------------------------------------------------------------------------------------------

    @property
    def future(self) -> Future[Any]:
        """The same result as a `Future`, for `Client.submit`, `as_completed` and all else that takes one."""
        if self._future is None:
            self._future = self.app.sender.adopt(self.id)
        return self._future

    def __task_key__(self) -> str:
        """As an argument of a call, it stands for its result."""
        if self._future is None:
            # Only its id is known here: it may have left the scheduler's memory, and is back once this is answered.
            self._future = self.app.sender.adopt(self.id)
            self._meta()
        return self.id

    @classmethod
    def of(cls, future: Future[Any], app: Any = None) -> AsyncResult:
        """The result of a `Future`."""
        return cls(future.key, app=app, future=future)

    # -- waiting ----------------------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Any = None,
        on_interval: Any = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Any = None,  # noqa: N803 - Celery's names
        PROPAGATE_STATES: Any = None,  # noqa: N803
    ) -> Any:
        """The result; blocks until it is there.

        Args:
            on_message: called with what is known of the task (``status``, ``result`` and more) whenever that changes.
            on_interval: called without arguments every ``interval`` seconds.

        Raises:
            TimeoutError: ``timeout`` seconds went by.
            Exception: what the task raised, or what it depended on did; unless ``propagate=False`` returns it.
            RuntimeError: this is a task.
        """
        if self.ignored:
            return None
        if disable_sync_subtasks and local.running_tasks():
            assert_will_not_block()
        if on_message is not None or on_interval is not None:
            timeout = self._watch(timeout, interval, on_message, on_interval)
        value = self._value(timeout)
        if isinstance(value, BaseException):
            if propagate and self.state in states.PROPAGATE_STATES:
                raise value
        if callback is not None:
            callback(self.id, value)
        return value

    wait = get

    def _watch(self, timeout: float | None, interval: float, on_message: Any, on_interval: Any) -> float | None:
        """Tell of changes until it has ended; the seconds that are left then."""
        end = None if timeout is None else time.monotonic() + timeout
        told: tuple[Any, ...] = ()
        while True:
            meta = self._meta()
            state, ended = meta.get("status", states.PENDING), meta.get("status") in states.READY_STATES
            known = (state, meta.get("custom"), meta.get("retries"))
            if on_message is not None and known != told and (told or state != states.PENDING):
                body = {"task_id": self.id, "status": state, "result": self.result, "traceback": self.traceback}
                on_message({**body, "children": meta.get("children", [])})
            told = known
            left = None if end is None else end - time.monotonic()
            if ended or (left is not None and left <= 0):
                return left if left is None else max(0.0, left)
            with contextlib.suppress(TimeoutError):
                wait([self.future], timeout=interval if left is None else min(interval, left))
            if on_interval is not None:
                on_interval()

    def _value(self, timeout: float | None) -> Any:
        """The result, or the exception in its place."""
        future = self._future or self.future
        try:
            value = future.blocking_result(timeout)
        except BaseException as raised:
            error = _why(future, raised)
            if error is None:
                raise
            if not future.done():
                raise error from None
        else:
            return value[0] if type(value) is Parts else value
        return self._translated(error)

    def _translated(self, error: BaseException) -> BaseException:
        """The exception as Celery has it: of a chord's body that can't run it says so."""
        cause = self.future._state.cause
        if isinstance(cause, Failure) and cause.key != self.id and self._is_body():
            return chord_error(cause.key, error)
        return error

    def _is_body(self) -> bool:
        return self._joins or bool(self._meta().get("joins"))

    # -- looking ----------------------------------------------------------------------------------------------------

    def _meta(self) -> dict[str, Any]:
        """What the scheduler knows of it."""
        if self._final is not None:
            return self._final
        meta: dict[str, Any] = self.app.sender.metas([self.id])[0] or {}
        if meta.get("status") in states.READY_STATES:
            self._final = meta
        return meta

    @property
    def state(self) -> str:
        """One of Celery's states, or one that the task gave itself."""
        future = self._future
        if future is not None and future.done():
            status = future.status
            if status == "finished":
                return states.SUCCESS
            cause = future._state.cause
            if status == "error" and not isinstance(cause, Failure):
                return states.FAILURE  # it was never taken
            if status == "error" and isinstance(cause, Failure) and cause.type not in ("Ignore", "Reject"):
                return states.REVOKED if cause.type == "TaskRevokedError" else states.FAILURE
        return str(self._meta().get("status", states.PENDING))

    status = state

    @property
    def result(self) -> Any:
        """The result, the exception in its place, or what a state of the task's own says."""
        meta_state = self.state
        if meta_state in states.READY_STATES:
            with contextlib.suppress(TimeoutError):
                return self._value(None)
        meta = self._meta()
        custom = meta.get("custom")
        if custom is not None:
            return loads_writable(custom)
        failure = meta.get("failure")
        return load_failure(as_failure(failure)) if failure is not None else None

    info = result

    @property
    def traceback(self) -> str | None:
        """Of the exception, as text."""
        failure = self._meta().get("failure")
        return as_failure(failure).traceback if failure is not None else None

    @property
    def children(self) -> list[AsyncResult] | None:
        """The results of the tasks it called, and of those that follow it."""
        children = self._meta().get("children")
        return None if children is None else [self.app.AsyncResult(key) for key in children]

    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether it has a result."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether it failed."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether anybody knows of it."""
        return bool(self._meta())

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
        """Raise if it failed; returns the result."""
        value = self.result
        if isinstance(value, BaseException) and propagate and self.state in states.PROPAGATE_STATES:
            raise value
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, *args: Any, **kwargs: Any) -> None:
        """Raise what it failed with."""
        value = self.result
        if isinstance(value, BaseException):
            raise value

    task_id = property(lambda self: self.id)
    name = property(lambda self: self._meta().get("name") or self.task_name)
    worker = property(lambda self: self._meta().get("worker"))
    retries = property(lambda self: self._meta().get("retries"))
    queue = property(lambda self: self._meta().get("queue"))
    args = property(lambda self: self._called()[0])
    kwargs = property(lambda self: self._called()[1])
    supports_native_join = True

    def _called(self) -> tuple[Any, Any]:
        """What it was called with, as long as the scheduler's memory has it.

        Results of others are `AsyncResult` until it has a result itself, and None then.
        """
        call = self.app.sender.ask("call_of", self.id)
        if call is None:
            return None, None
        packed, needs = call
        args, kwargs = loads_writable(packed)

        def known(value: Any) -> Any:
            if isinstance(value, TaskRef):
                return self.app.AsyncResult(needs[value.index]) if value.index < len(needs) else None
            return [known(one) for one in value] if type(value) is list else value

        return tuple(map(known, args)), {name: known(value) for name, value in kwargs.items()}

    @property
    def date_done(self) -> datetime | None:
        """When it ended."""
        done = self._meta().get("date_done")
        return datetime.fromtimestamp(done, UTC) if done else None

    # -- doing ------------------------------------------------------------------------------------------------------

    def revoke(
        self, connection: Any = None, terminate: bool = False, signal: Any = None, wait: bool = False,
        timeout: float | None = None,
    ) -> None:  # fmt: skip
        """Don't run it, nor what depends on it; with ``terminate`` it is also ended where it runs."""
        self.app.control.revoke(self.id, terminate=terminate, signal=signal)

    def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any], connection: Any = None, terminate: bool = False, signal: Any = None,
        wait: bool = False, timeout: float | None = None,
    ) -> None:  # fmt: skip
        """Don't run tasks that have one of these stamps."""
        self.app.control.revoke_by_stamped_headers(headers, terminate=terminate)

    def forget(self) -> None:
        """Don't keep the result, nor those before it."""
        self._final = None
        if self._future is not None:
            self._future.release()
            self._future = None
        self.app.sender.ask("forget_results", [self.id])
        if self.parent is not None:
            self.parent.forget()

    def retry(self) -> None:
        """Run it again if it has failed, under the same id; also when it did so long ago. Celery has no such thing.

        One whose call isn't known any more is cancelled, with the reason: `get` raises CancelledError then.
        """
        if self.failed():
            self._final = None
            self.future.exception()  # of one that was only known by its id, this is waited for
            self.future.retry()

    def then(self, callback: Callable[[Any], Any], on_error: Any = None, weak: bool = False) -> Any:
        """Call ``callback`` with this result when it is there, or ``on_error`` when it failed."""

        def settled(_: Any) -> None:
            if self.successful():
                callback(self)
            elif on_error is not None:
                on_error(self)

        self.future.add_done_callback(settled)
        return callback

    # -- its place --------------------------------------------------------------------------------------------------

    def get_leaf(self) -> Any:
        """The last result below it."""
        leaf = None
        for _, node in self.iterdeps():
            leaf = node.get()
        return leaf

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """(parent, node) of this and all below it, each node once for each parent.

        Raises:
            IncompleteStream: a node hasn't ended, so that more may come below it; unless ``intermediate``.
        """
        line: deque[tuple[Any, AsyncResult]] = deque([(None, self)])
        seen: set[str] = set()
        while line:
            parent, node = line.popleft()
            yield parent, node
            if node.id in seen:
                continue
            if not node.ready() and not intermediate:
                raise IncompleteStream(f"{node.id} hasn't ended")
            seen.add(node.id)
            line.extend((node, child) for child in node.children or ())

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """(node, result) of this and all below it, waited for one after another, each once."""
        seen: set[str] = set()
        for _, node in self.iterdeps(intermediate):
            if node.id not in seen:
                seen.add(node.id)
                yield node, node.get(**kwargs)

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph:
        """This and all below it as a graph, for looking at or drawing."""
        graph = DependencyGraph(formatter=formatter or GraphFormatter(root=self.id, shape="oval"))
        for parent, node in self.iterdeps(intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @cached_property
    def graph(self) -> DependencyGraph:
        """`build_graph`, built once."""
        return self.build_graph()

    def as_tuple(self) -> Any:
        """Ids, for `result_from_tuple`."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """Its id and those before it."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else [])]

    def __await__(self) -> Any:
        return self.future.__await__()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __copy__(self) -> AsyncResult:
        return type(self)(self.id, task_name=self.task_name, app=self.app, parent=self.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, None, self.task_name, None, self.parent)


def _why(future: Future[Any], raised: BaseException) -> BaseException | None:
    """What kept a result from being there, by what waiting for it raised; None if that is what must be raised."""
    if not future.done():
        return TimeoutError("The operation timed out.") if isinstance(raised, TimeoutError) else None
    return future.exception() if future.status == "error" else None


def as_failure(raw: Any) -> Failure:
    """A failure that came in an answer."""
    return raw if isinstance(raw, Failure) else Failure(*raw)
