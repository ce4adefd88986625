"""The joblib backend ``futurebroker``: what scikit-learn and others run in parallel, runs in the cluster; needs joblib.

``with joblib.parallel_config("futurebroker")``, once there is a client. Parallel calls inside parallel calls run in the
cluster as well: who waits for them has no slot meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

from joblib import parallel_config, register_parallel_backend
from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase

from futurebroker.client.client import Client
from futurebroker.client.daskdefault import BACKEND
from futurebroker.client.futures import Future
from futurebroker.client.inside import get_client, rejoin, secede
from futurebroker.inside import NO_TASK, current_task

#: bytes from which an argument is stored once for all calls of one ``Parallel``
LARGE = 16 * 1024
#: seconds to wait for the first worker
PATIENCE = 30.0


class FuturebrokerBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """See the top of this file.

    Args:
        client: whose cluster; default the current client, inside tasks that of the task.
        options: of `Client.submit`, such as ``workers`` and ``retries``.
    """

    # A task costs little here, so that small batches do; they let others have their turn, and end early when cancelled.
    MIN_IDEAL_BATCH_DURATION = 0.02
    MAX_IDEAL_BATCH_DURATION = 0.2
    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        client: Client | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._client = client if client is not None else get_client()
        self._chosen = client
        self._options = options
        self._pending: dict[int, Future[Any]] = {}
        #: arguments of the current call that are stored, by identity; held, so that ids stay theirs
        self._stored: dict[int, tuple[Any, Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return FuturebrokerBackend, (self.nesting_level,)

    # -- for joblib --------------------------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many calls run at a time: ``n_jobs``, or for -1 as many as the cluster has slots."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 has no meaning")
        slots = sum(self._client.nthreads().values())
        if not slots:
            self._client.wait_for_workers(1, PATIENCE)
            slots = sum(self._client.nthreads().values())
        if n_jobs is not None and n_jobs > 0:
            return int(n_jobs)
        return int(max(1, slots + 1 + (n_jobs or -1)))

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """See `ParallelBackendBase.configure`."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int]:
        """Calls inside calls run in the cluster too."""
        return FuturebrokerBackend((self.nesting_level or 0) + 1, client=self._chosen), -1

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Have a batch run; ``callback`` is called with its future when it is done."""
        calls = [
            (
                function,
                [self._argument(one) for one in args],
                {name: self._argument(one) for name, one in kwargs.items()},
            )
            for function, args, kwargs in func.items
        ]
        future: Future[Any] = self._client.options(**self._options).submit(run_batch, calls, self.nesting_level or 0)
        self._pending[id(future)] = future
        # Batches that a callback makes are made by the task that made this one.
        context = copy_context()

        def done(one: Future[Any]) -> None:
            self._pending.pop(id(one), None)
            if callback is not None:
                context.copy().run(callback, one)

        future.add_done_callback(done)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch, or what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what hasn't ended: nobody will ask for it."""
        pending = list(self._pending.values())
        self._pending.clear()
        if pending:
            self._client.cancel(pending, reason="the Parallel call it belongs to has ended")

    def stop_call(self) -> None:
        """Let go of stored arguments."""
        self._stored.clear()

    def terminate(self) -> None:
        """Let go of everything."""
        self._stored.clear()
        self._pending.clear()

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Joblib waits in ways of its own, so a task that does gives up its slot as a whole."""
        _, _, slot, _ = current_task.get(NO_TASK)
        if slot is None:
            yield
            return
        secede()
        try:
            yield
        finally:
            rejoin()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _argument(self, value: Any) -> Any:
        known = self._stored.get(id(value))
        if known is not None:
            return known[1]
        if not _is_large(value):
            return value
        future = self._client.scatter([value])[0]
        self._stored[id(value)] = (value, future)
        return future


def _is_large(value: Any) -> bool:
    """Whether to store a value once; a guess that looks into nothing but arrays and frames."""
    if isinstance(value, (Future, type)) or callable(value):
        return False
    size = getattr(value, "nbytes", None)
    if not isinstance(size, int):
        try:
            size = sys.getsizeof(value)
        except TypeError:
            return False
    return size > LARGE


def run_batch(calls: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]], level: int) -> list[Any]:
    """A task: the calls of a batch, in order; parallel calls that they make run in the cluster."""
    register()
    with parallel_config(backend=FuturebrokerBackend(level + 1), n_jobs=-1):
        return [function(*args, **kwargs) for function, args, kwargs in calls]


def register() -> None:
    """Make the backend known to joblib by its name."""
    register_parallel_backend(BACKEND, FuturebrokerBackend)
