"""A cluster as a `concurrent.futures.Executor`, for code that knows only that."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from futurebroker.client.futures import Future
from futurebroker.client.options import Options
from futurebroker.client.submitting import Submitter

T = TypeVar("T")


class ExecutorFuture(concurrent.futures.Future[T]):
    """A future of PEP 3148 that follows one of ours; cancelling it cancels the task in the cluster.

    It is never RUNNING, because a client isn't told when a task begins, so it can be cancelled until it is done.
    """

    def __init__(self, ours: Future[Any]) -> None:
        super().__init__()
        self._ours: Future[Any] | None = ours

    @property
    def key(self) -> str:
        """The task's key in the cluster; empty once it is done."""
        ours = self._ours
        return ours.key if ours is not None else ""

    def cancel(self) -> bool:
        """Cancel the task unless it is done; see `concurrent.futures.Future.cancel`."""
        cancelled = super().cancel()
        ours = self._ours
        if cancelled and ours is not None:
            ours.cancel()
        return cancelled

    def follow(self, ours: Future[Any]) -> None:
        """Take over the outcome of ``ours``, which is done; runs on the client's callback thread."""
        self._ours = None
        if not self.set_running_or_notify_cancel():
            return
        if ours.cancelled():
            # A dependency, the scheduler or `Client.close` cancelled it: PEP 3148 knows no other way to say so.
            self.set_exception(concurrent.futures.CancelledError(*ours._state.error().args))
            return
        error = ours._state.error() if ours.status == "error" else None
        if error is None:
            try:
                result = ours.blocking_result()
            except BaseException as raised:  # noqa: BLE001 - it is raised again where the result is asked for
                self.set_exception(raised)
            else:
                self.set_result(result)
        else:
            self.set_exception(error)


class ClientExecutor(concurrent.futures.Executor):
    """What `Client.get_executor` returns. It behaves as PEP 3148 says; each call runs, equal ones too.

    Shutting it down leaves the client open.
    """

    def __init__(self, submitter: Submitter, **options: Any) -> None:
        self._submitter = submitter
        self._options = options
        self._calls = Options(submitter, **options)
        self._lock = threading.Lock()
        self._unfinished: set[ExecutorFuture[Any]] = set()
        self._emptied = threading.Condition(self._lock)
        self._is_shut_down = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        with self._lock:
            self._check()
            ours = self._calls.submit(fn, *args, **kwargs)
            future: ExecutorFuture[T] = ExecutorFuture(ours)
            self._unfinished.add(future)
        ours.add_done_callback(partial(self._finish, future))
        return future

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """See `concurrent.futures.Executor.map`; with ``chunksize`` one task makes that many calls."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._check()
            calls = Options(self._submitter, **{**self._options, "chunksize": chunksize})
            futures = calls.map(fn, *iterables) if iterables else []
        # Unlike those of `submit`, these futures are ours: nobody else sees them.
        return _results(futures, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        with self._lock:
            self._is_shut_down = True
            pending = list(self._unfinished) if cancel_futures else []
        for future in pending:
            future.cancel()
        if wait:
            with self._emptied:
                self._emptied.wait_for(lambda: not self._unfinished)

    def _check(self) -> None:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _finish(self, future: ExecutorFuture[Any], ours: Future[Any]) -> None:
        try:
            future.follow(ours)
        finally:
            with self._emptied:
                self._unfinished.discard(future)
                if not self._unfinished:
                    self._emptied.notify_all()


def _results(futures: list[Future[Any]], end: float | None) -> Iterator[Any]:
    """The results in order; the rest is cancelled when the caller stops asking, or one is late or failed."""
    futures.reverse()
    try:
        while futures:
            left = None if end is None else end - time.monotonic()
            result = futures[-1].blocking_result(left)
            futures.pop()
            yield result
    finally:
        for future in futures:
            future.cancel()
