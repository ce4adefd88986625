"""The client: what a program holds to give work to a cluster and to get results back."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import html
import os
import sys
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar

from futurebroker.client.calls import FUNCTION_LIMIT, task_options, worker_names
from futurebroker.client.connection import Connection
from futurebroker.client.executor import ClientExecutor
from futurebroker.client.futures import Future, KeyState
from futurebroker.client.gathering import gather, only_futures_in
from futurebroker.client.inquiries import Inquiries
from futurebroker.client.options import Options
from futurebroker.client.replies import opened
from futurebroker.client.submitting import Submitter, new_salt
from futurebroker.client.waiters import run_blocking
from futurebroker.config import Settings, hide_password, load_settings
from futurebroker.exceptions import ClientClosedError, MessageTooLargeError
from futurebroker.protocol.messages import RunOnWorkers
from futurebroker.protocol.serialize import dumps, name_of
from futurebroker.secret import find_secret, normalize_address, secret_origin
from futurebroker.types import Key

T = TypeVar("T")

_current: ContextVar[Client | None] = ContextVar("futurebroker_client", default=None)
_defaults: list[weakref.ref[Client]] = []


class Cluster(Protocol):
    """What a client needs to know of a cluster object such as `LocalCluster`."""

    @property
    def scheduler_address(self) -> str:
        """Where to connect to."""

    @property
    def name(self) -> str:
        """The cluster's name."""

    @property
    def secret(self) -> bytes:
        """What messages are signed with."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that everything runs on when the cluster lives in this process, else None."""

    def close(self) -> Any:
        """End it."""


class Client(Inquiries):
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
        cluster_kwargs: arguments of the `LocalCluster` that is started.

    Raises:
        NoSchedulerError: nothing answered at the address in time.
        RefusedError: the scheduler won't have this client; the reason names both sides.
    """

    #: makes the cluster of a client without an address; set by `futurebroker.local`, which is above this module
    local_cluster_factory: ClassVar[Callable[..., Cluster] | None] = None

    def __init__(
        self,
        address: str | Cluster | None = None,
        *,
        timeout: float | None = None,
        asynchronous: bool = False,
        name: str | None = None,
        set_as_default: bool = True,
        secret: str | None = None,
        cluster: str | None = None,
        **cluster_kwargs: Any,
    ) -> None:
        self.asynchronous = asynchronous
        self.status = "created"
        #: the cluster object that was given, or was started for this client
        self.cluster: Cluster | None = None
        self._address = address
        self._settings = load_settings(
            broker_url=address if isinstance(address, str) else None,
            cluster=cluster,
            secret=secret,
            connect_timeout=timeout,
        )
        self._cluster_kwargs = cluster_kwargs
        self._owns_cluster = address is None and self._settings.broker_url is None
        if cluster_kwargs and not self._owns_cluster:
            raise TypeError(f"{', '.join(cluster_kwargs)}: arguments of a cluster, but this client joins a running one")
        self._owner = os.getpid()
        self._salt = new_salt()
        self._name = f"{name or 'client'}-{self._salt}"
        self._set_as_default = set_as_default
        self._live: tuple[Connection, Submitter] | None = None
        if not asynchronous:
            run_blocking(self._begin(True))

    # -- beginning and end -------------------------------------------------------------------------------------------

    async def _begin(self, blocking: bool) -> Self:
        if self.status != "created":
            return self
        self.status = "connecting"
        try:
            if self._owns_cluster:
                self.cluster = self._start_cluster() if blocking else await asyncio.to_thread(self._start_cluster)
            elif self._address is not None and not isinstance(self._address, str):
                self.cluster = self._address
            connection = self._connection_to(self.cluster, self._settings)
            await connection.open(self._settings.connect_timeout, blocking)
        except BaseException:
            self.status = "closed"
            if self._owns_cluster and self.cluster is not None:
                self.cluster.close()
            raise
        self._live = (connection, Submitter(connection, self._salt, self._settings.connect_timeout))
        self.status = "running"
        # Per client, not once: handlers run last in first out, so before that of the cluster it belongs to.
        atexit.register(self._at_exit)
        if self._set_as_default:
            _defaults.append(weakref.ref(self))
        return self

    def _start_cluster(self) -> Cluster:
        factory = type(self).local_cluster_factory
        if factory is None:
            raise TypeError("give an address, or import Client from futurebroker to have a cluster started")
        return factory(**self._cluster_kwargs)

    def _connection_to(self, cluster: Cluster | None, settings: Settings) -> Connection:
        if cluster is not None:
            url, name, secret, loop = cluster.scheduler_address, cluster.name, cluster.secret, cluster.loop
            origin = "the cluster object"
        else:
            url = normalize_address(str(settings.broker_url), settings)
            # On this machine the secret is made by whoever comes first, so that the error is about the scheduler.
            settings = dataclasses.replace(settings, broker_url=url)
            name, secret, loop = settings.cluster, find_secret(settings, create=True), None
            origin = secret_origin(settings)
        return Connection(
            self._name,
            url=url,
            cluster=name,
            secret=secret,
            origin=origin,
            asynchronous=self.asynchronous,
            patience=settings.connect_timeout,
            heartbeat=settings.heartbeat_interval,
            loop=loop,
        )

    def close(self) -> Any:
        """Cancel what is pending, leave the cluster, and end it if this client started it. May be called twice."""
        return self._enter(self._close)

    async def _close(self, blocking: bool) -> None:
        if self._live is None or self.status == "closed":
            return
        self.status = "closed"
        atexit.unregister(self._at_exit)
        _defaults[:] = [other for other in _defaults if other() is not None and other() is not self]
        connection, submitter = self._live
        await connection.close(blocking)
        submitter.data.close()
        if self._owns_cluster and self.cluster is not None:
            if blocking:
                self.cluster.close()
            else:
                await asyncio.to_thread(self.cluster.close)

    def _at_exit(self) -> None:
        # In a forked copy of the program the threads are missing that an end needs, and the client isn't the copy's.
        if os.getpid() != self._owner:
            return
        run_blocking(self._close(True))

    def __enter__(self) -> Self:
        if self.asynchronous:
            raise TypeError("an asynchronous Client is entered with: async with")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._begin(False).__await__()

    async def __aenter__(self) -> Self:
        return await self._begin(False)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(False)

    # -- which client ------------------------------------------------------------------------------------------------

    @classmethod
    def current(cls) -> Client:
        """The client of the innermost `as_current` here, else the last one that was made and is open.

        Raises:
            ValueError: there is none.
        """
        client = _current.get()
        if client is not None:
            return client
        for reference in reversed(_defaults):
            client = reference()
            if client is not None and client.status == "running":
                return client
        raise ValueError("no client is open here; make one with Client(...)")

    @contextlib.contextmanager
    def as_current(self) -> Iterator[Self]:
        """Have `Client.current` give this client within a ``with``, in this thread or asyncio task only."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    # -- work --------------------------------------------------------------------------------------------------------

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
        **kwargs: Any,
    ) -> Future[Any]:
        """Have ``function(*args, **kwargs)`` run on a worker; returns its future at once.

        Futures among the arguments, also inside lists, tuples, sets, dict values and named tuples, are replaced by
        their results before the call. An ``async def`` function is awaited. Unlike in dask.distributed each call is
        run, unless ``pure``. If ``function`` has a keyword with a name of ours, use `options`.

        Args:
            key: name of the result; a key that this client holds already gives that result's future.
            workers: names, ids or host names of the workers that may run it.
            allow_other_workers: let others run it while none of ``workers`` is connected.
            resources: amounts that the worker must have offered and free, like ``{"GPU": 1}``.
            retries: how often it is run again after an exception.
            priority: larger runs earlier.
            pure: give equal calls of equal functions one key, so that they run once.

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
            and not (retries or priority or pure or allow_other_workers)
            and resources is None
        ):
            return live[1].submit(function, args, kwargs)
        options = task_options(workers, allow_other_workers, resources, retries, priority)
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
        options = task_options(workers, allow_other_workers, resources, retries, priority)
        return self._submitter.map(function, iterables, kwargs, options, key, pure, chunksize)

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

    # -- telling -----------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Names this client in the cluster."""
        return self._name

    @property
    def scheduler_address(self) -> str:
        """The URL of the cluster, without its password; empty before the client is connected."""
        return hide_password(self._live[0].url) if self._live is not None else ""

    def __repr__(self) -> str:
        held = f" futures={len(self._live[0].states)}" if self._live is not None else ""
        return f"<Client: {self._name} {self.status} {self.scheduler_address!r}{held}>"

    def _repr_html_(self) -> str:
        rows = {
            "status": self.status,
            "scheduler": self.scheduler_address or "-",
            "program": os.path.basename(sys.argv[0]),
        }
        if self._live is not None:
            rows["futures held"] = f"{len(self._live[0].states):,}"
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table><caption>Client {html.escape(self._name)}</caption>{cells}</table>"

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _connection(self) -> Connection:
        if self._live is None:
            raise self._not_running()
        return self._live[0]

    @property
    def _submitter(self) -> Submitter:
        if self._live is None:
            raise self._not_running()
        return self._live[1]

    def _not_running(self) -> Exception:
        if self.status == "created":
            return ClientClosedError("an asynchronous client connects when it is awaited: client = await Client(...)")
        return ClientClosedError(f"this client is {self.status}")

    def _enter(self, work: Callable[[bool], Any]) -> Any:
        """A coroutine of ours run to its end, or handed to the caller's event loop."""
        return work(False) if self.asynchronous else run_blocking(work(True))

    def _ask(self, topic: str, about: Any = None, timeout: float | None = None) -> Any:
        return self._enter(lambda blocking: self._connection.ask(topic, about, blocking, timeout))

    def _states(self, futures: Any) -> list[KeyState]:
        states = {id(future._state): future._state for future in only_futures_in(futures)}
        for state in states.values():
            if state.keeper is not self._connection:
                raise ValueError(f"{state.key} belongs to another client")
        return list(states.values())

    def _done(self) -> Awaitable[None] | None:
        return asyncio.sleep(0) if self.asynchronous else None


#: the name of this class in older programs
Executor = Client
