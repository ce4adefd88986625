"""The client: what a program holds to give work to a cluster and to get results back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from futurebroker.client.calls import FUNCTION_LIMIT, Terms, result_key, task_options, worker_names
from futurebroker.client.collections import Collections
from futurebroker.client.dashboards import Dashboards
from futurebroker.client.datasets import Datasets
from futurebroker.client.ending import Ending
from futurebroker.client.executor import ClientExecutor
from futurebroker.client.forwarding import Forwarding
from futurebroker.client.futures import Future
from futurebroker.client.gathering import gather
from futurebroker.client.holdings import Holdings
from futurebroker.client.inquiries import Inquiries
from futurebroker.client.insight import Insight
from futurebroker.client.ipython import IPython
from futurebroker.client.options import Options
from futurebroker.client.replies import opened
from futurebroker.client.submitting import checked_key
from futurebroker.client.waiters import run_blocking
from futurebroker.exceptions import MessageTooLargeError
from futurebroker.protocol.messages import RunOnWorkers
from futurebroker.protocol.serialize import dumps, name_of
from futurebroker.types import Key


class Client(Datasets, Collections, Inquiries, Insight, Forwarding, Ending, IPython, Holdings, Dashboards):
    """A program's connection to a cluster: it submits calls and holds their futures.

    Without an address it starts a `LocalCluster`, unless a broker is set in the environment or the settings file, and
    ends that cluster when it is closed. It has the shape of dask.distributed's client; futures and `get_executor` that
    of `concurrent.futures`. All methods may be called from any thread.

    With ``asynchronous=True`` it connects when it is awaited or entered by ``async with``, and every method that waits
    returns an awaitable; `submit` and `map` return futures at once either way.

    Args:
        address: ``host``, ``host:port``, a URL, or a cluster object.
        timeout: seconds to wait for the scheduler when connecting, and for room when submitting.
        name: what this client is called in the scheduler's own tools.
        set_as_default: whether `Client.current` gives this client.
        secret: the cluster's secret, if it isn't in the environment or the secret file.
        cluster: name of the cluster, where several share a broker.
        scheduler_file: a file of `write_scheduler_file` or ``futurebroker scheduler --scheduler-file``, in place of an
            address; waited for as long as for the scheduler.
        cluster_kwargs: arguments of the `LocalCluster` that is started.

    Raises:
        NoSchedulerError: nothing answered at the address in time.
        RefusedError: the scheduler won't have this client; the reason names both sides.
    """

    def submit(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: Key | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        resources: dict[str, float] | None = None,
        retries: int = 0,
        priority: int = 0,
        pure: bool = False,
        durable: bool = False,
        keep: float | None = None,
        idempotency_key: str | None = None,
        at_most_once: bool = False,
        **kwargs: Any,
    ) -> Future[Any]:
        """Have ``function(*args, **kwargs)`` run on a worker; returns its future at once.

        Futures among the arguments, also inside lists, tuples, sets, dict values and named tuples, are replaced by
        their results before the call. An ``async def`` function is awaited. Unlike in dask.distributed each call is
        run, unless ``pure``. If ``function`` has a keyword with a name of ours, use `options`.

        Args:
            key: name of the result; a key that this client holds already gives that result's future.
            workers, allow_other_workers: names, ids or host names of who may run it; whether others may without them.
            resources: amounts that the worker must have offered and free, like ``{"GPU": 1}``.
            retries: how often it is run again after an exception.
            priority: larger runs earlier.
            pure: give equal calls of equal functions one key, so that they run once.
            durable: keep the result in the scheduler's journal, or its database if it is large, before anybody is told
                that it is there; so no loss of workers takes it away, and the task never runs again. A scheduler
                without a journal keeps results of at most 64 KiB so, as long as it lives.
            keep: seconds for which the result is kept after the end although no future of it is left; a day for
                durable and idempotent calls, else 0.
            idempotency_key: a call with the same, from any client and also after a restart, gives the future of the
                first one for as long as that is kept. The function's name belongs to it; its arguments don't.
            at_most_once: fail with `WorkerLostError` rather than run again what may have begun before its worker or
                the scheduler was lost.

        Raises:
            SerializationError: the function or an argument can't be pickled.
            IntakeError: the scheduler took no more within the client's timeout.
        """
        live = self._live
        if live is None:
            raise self._not_running()
        if (
            key is None
            and workers is None
            and not (retries or priority or pure or allow_other_workers or durable or keep or at_most_once)
            and resources is None
            and idempotency_key is None
        ):
            return live[1].submit(function, args, kwargs)
        terms = Terms.of(durable, keep, at_most_once, idempotency_key)
        key = result_key(key, pure, function, idempotency_key)
        options = task_options(workers, allow_other_workers, resources, retries, priority, terms)
        return live[1].submit_with(function, args, kwargs, options, key, pure)

    def map(
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        key: str | Sequence[Key] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        resources: dict[str, float] | None = None,
        retries: int = 0,
        priority: int = 0,
        pure: bool = False,
        chunksize: int = 1,
        durable: bool = False,
        keep: float | None = None,
        at_most_once: bool = False,
        **kwargs: Any,
    ) -> list[Future[Any]]:
        """Have ``function`` called with the elements of ``iterables``; returns a list of futures, one a call.

        As the builtin ``map`` it stops at the shortest of ``iterables``, which may be iterators. All calls get the same
        ``kwargs``; large ones are sent once.

        Args:
            key: what keys begin with instead of the function's name, or a list with the key of each call.
            chunksize: calls that make up one task. Tiny calls cost less in chunks; a chunk fails as a whole when one of
                its calls raises, as in `concurrent.futures.ProcessPoolExecutor.map`.

        For the rest see `submit`.
        """
        terms = Terms.of(durable, keep, at_most_once, None)
        options = task_options(workers, allow_other_workers, resources, retries, priority, terms)
        return self._submitter.map(function, iterables, kwargs, options, key, pure, chunksize)

    def future(self, key: Key) -> Future[Any]:
        """A future of a task by its key alone: one of another client's, or of an earlier program's, also after a
        restart of the scheduler.

        What nobody wants is forgotten, unless it was submitted with ``keep=``, or for `fire_and_forget` a while ago;
        the future of a key that is not known is cancelled.

        Raises:
            TypeError, ValueError: it can't be a key.
        """
        checked = checked_key(key)
        if checked is None:
            raise TypeError("future() takes the key of a task")
        return Future(self._connection.attach(checked))

    def options(self, **options: Any) -> Options:
        """An object whose ``submit`` and ``map`` use these options and pass all keywords on to the function.

        ``client.options(retries=2).submit(function, key="for the function")``
        """
        return Options(self._submitter, **options)

    def gather(self, futures: Any, errors: str = "raise", asynchronous: bool | None = None) -> Any:
        """The results of ``futures``: one, or any nesting of lists, tuples, sets, dicts and named tuples with futures.

        The result has the same shape; an iterator becomes a list. With ``errors="raise"`` the first failure is raised
        as soon as it is known; with "skip" what failed or was cancelled is left out.

        Raises:
            ValueError: a future belongs to another client.
        """
        asynchronous = self.asynchronous if asynchronous is None else asynchronous
        coroutine = gather(self._connection, futures, errors, not asynchronous)
        return coroutine if asynchronous else run_blocking(coroutine)

    def scatter(
        self,
        data: Any,
        workers: str | Iterable[str] | None = None,
        broadcast: bool = False,
        hash: bool = False,
    ) -> Any:
        """Put data into the cluster, once, for many tasks; returns a future, or futures in the shape of ``data``.

        A list, tuple, set, frozenset, named tuple or dict of exactly these types gives one with a future for each
        element, and iterators and ranges give lists, as in dask.distributed; anything else gives one future. Text keys
        of a dict become keys in the cluster.

        Args:
            workers: names, ids or host names of the workers that may hold it.
            broadcast: have every worker hold it.
            hash: name data by its content, so that equal data of this client is sent once.
        """
        names = worker_names(workers)
        return self._enter(lambda blocking: self._submitter.data.scatter(data, names, broadcast, hash, blocking))

    def cancel(self, futures: Any, force: bool = False, reason: str = "") -> Any:
        """Give up the tasks behind ``futures``, and what depends on them; their status changes at once.

        What runs is not interrupted, and its result is dropped. Another client that wants a key still gets it, unless
        ``force``.
        """
        self._connection.cancel(self._states(futures), force, reason)
        return self._done()

    def retry(self, futures: Any) -> Any:
        """Run failed tasks again, each from the task that failed first."""
        self._connection.retry(self._states(futures))
        return self._done()

    def run(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        workers: str | Iterable[str] | None = None,
        wait: bool = True,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> Any:
        """Call ``function(*args, **kwargs)`` once on every worker, beside its tasks; returns results by worker id.

        Args:
            wait: False returns None at once.
            on_error: "raise" the first exception, "return" exceptions in place of results, or "ignore" them.
        """
        if on_error not in ("raise", "return", "ignore"):
            raise ValueError(f"on_error= takes 'raise', 'return' or 'ignore', got {on_error!r}")
        code = dumps(function, f"the function {name_of(function)}")
        if len(code) > FUNCTION_LIMIT:
            raise MessageTooLargeError(f"the function {name_of(function)}", len(code), FUNCTION_LIMIT)
        packed = dumps((args, kwargs), f"the arguments of {name_of(function)}")
        if len(packed) > FUNCTION_LIMIT:
            raise MessageTooLargeError(f"the arguments of {name_of(function)}", len(packed), FUNCTION_LIMIT)
        connection = self._connection
        number = connection.number()
        message = RunOnWorkers(number, code, packed, worker_names(workers), wait)

        async def work(blocking: bool) -> dict[str, Any] | None:
            answers = await connection.question(number, message, blocking)
            return opened(answers, on_error) if wait else None

        return self._enter(work)

    def get_executor(self, **options: Any) -> ClientExecutor:
        """A `concurrent.futures.Executor` over this client; ``options`` are those of `submit`, but for ``key``."""
        return ClientExecutor(self._submitter, **options)


#: the name of this class in older programs
Executor = Client
