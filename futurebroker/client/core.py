"""What every part of a client stands on: its beginning and end, its connection, and which client is the current one."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import html
import os
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from importlib import import_module
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, cast

from futurebroker import schedulerfile
from futurebroker.client import daskdefault
from futurebroker.client.connection import Connection
from futurebroker.client.futures import INSIDE, Keeper, KeyState, find_keeper
from futurebroker.client.gathering import only_futures_in
from futurebroker.client.submitting import Submitter, new_salt
from futurebroker.client.waiters import run_blocking
from futurebroker.config import Settings, hide_password, load_settings
from futurebroker.exceptions import ClientClosedError
from futurebroker.inside import current_task
from futurebroker.orders import data_transfer
from futurebroker.schedulerfile import SchedulerFile
from futurebroker.secret import find_secret, normalize_address, secret_origin

_current: ContextVar[ClientCore | None] = ContextVar("futurebroker_client", default=None)
#: the client whose `sync` runs the coroutine at hand
_in_sync: ContextVar[ClientCore | None] = ContextVar("futurebroker_in_sync", default=None)
_defaults: list[weakref.ref[ClientCore]] = []
#: clients that are connected, for a fork to end its copies of them
_running: weakref.WeakSet[ClientCore] = weakref.WeakSet()


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


class ClientCore:
    """`Client` without what it is for; its methods stand in classes derived from this one, a topic each."""

    #: makes the cluster of a client without an address; set by `futurebroker.local`, which is above this module
    local_cluster_factory: ClassVar[Callable[..., Cluster] | None] = None
    #: turns calls into futures for this client
    _submitter_class: ClassVar[type[Submitter]] = Submitter
    #: what the scheduler is told of this client, beside what it is told of any program
    _about: ClassVar[dict[str, Any]] = {}
    #: gives the client of the task that runs here, None outside of tasks; set by `client.inside`
    client_of_task: ClassVar[Callable[[], ClientCore | None] | None] = None

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
        scheduler_file: str | os.PathLike[str] | None = None,
        **cluster_kwargs: Any,
    ) -> None:
        self._asynchronous = asynchronous
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
        self._scheduler_file = scheduler_file
        if scheduler_file is not None and address is not None:
            raise TypeError("an address and scheduler_file= both say where the cluster is; give one of them")
        self._owns_cluster = address is None and scheduler_file is None and self._settings.broker_url is None
        if cluster_kwargs and not self._owns_cluster:
            raise TypeError(f"{', '.join(cluster_kwargs)}: arguments of a cluster, but this client joins a running one")
        self._owner = os.getpid()
        self._salt = new_salt()
        self._name = f"{name or 'client'}-{self._salt}"
        self._set_as_default = set_as_default
        self._live: tuple[Connection, Submitter] | None = None
        if not asynchronous:
            run_blocking(self._begin(True))

    @property
    def asynchronous(self) -> bool:
        """Whether methods that wait return awaitables; so it is within `sync` as well."""
        return self._asynchronous or _in_sync.get() is self

    @asynchronous.setter
    def asynchronous(self, value: bool) -> None:
        self._asynchronous = value

    def sync(
        self,
        function: Callable[..., Coroutine[Any, Any, Any]],
        /,
        *args: Any,
        asynchronous: bool | None = None,
        callback_timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a coroutine function and wait for its end; with an asynchronous client, give what is to be awaited.

        Meanwhile this client is an asynchronous one for the coroutine: ``await client.gather(futures)``. It runs on a
        loop of its own.

        Args:
            asynchronous: True gives what is to be awaited in any case.
            callback_timeout: seconds it may take.

        Raises:
            TimeoutError: it took longer, and was cancelled.
        """

        async def work() -> Any:
            token = _in_sync.set(self)
            try:
                return await asyncio.wait_for(function(*args, **kwargs), callback_timeout)
            finally:
                _in_sync.reset(token)

        if self.asynchronous if asynchronous is None else asynchronous:
            return work()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work())
        # Called on the thread of a loop, as in a notebook: that one can't be run twice at a time.
        with ThreadPoolExecutor(1, "futurebroker-sync") as thread:
            return thread.submit(copy_context().run, asyncio.run, work()).result()

    # -- beginning and end -------------------------------------------------------------------------------------------

    async def _begin(self, blocking: bool) -> Self:
        if self.status != "created":
            return self
        self.status = "connecting"
        try:
            if self._scheduler_file is not None:
                self._settings = await self._read_scheduler_file(self._scheduler_file, blocking)
            if self._owns_cluster:
                self.cluster = self._start_cluster() if blocking else await asyncio.to_thread(self._start_cluster)
            elif self._address is not None and not isinstance(self._address, str):
                self.cluster = self._address
            connection = self._connection_to(self.cluster, self._settings)
            self._before_opening(connection)
            await connection.open(self._settings.connect_timeout, blocking)
        except BaseException:
            self.status = "closed"
            if self._owns_cluster and self.cluster is not None:
                self.cluster.close()
            raise
        self._live = (connection, self._submitter_class(connection, self._salt, self._settings.connect_timeout))
        self.status = "running"
        _running.add(self)
        # Per client, not once: handlers run last in first out, so before that of the cluster it belongs to.
        atexit.register(self._at_exit)
        if self._set_as_default:
            _defaults.append(weakref.ref(self))
            daskdefault.become(self)
        return self

    async def _read_scheduler_file(self, path: str | os.PathLike[str], blocking: bool) -> Settings:
        wait = self._settings.connect_timeout
        told = schedulerfile.read(path, wait) if blocking else await asyncio.to_thread(schedulerfile.read, path, wait)
        given = load_settings(broker_url=told.address, cluster=told.cluster, secret=told.secret)
        secret = self._settings.secret if told.secret is None else told.secret
        return dataclasses.replace(
            self._settings, broker_url=given.broker_url, cluster=given.cluster, secret=secret, sources=given.sources
        )

    def write_scheduler_file(self, scheduler_file: str | os.PathLike[str], *, secret: bool = True) -> None:
        """Write where the cluster is to a file, for ``Client(scheduler_file=...)`` and ``worker --scheduler-file``.

        The cluster's secret stands in it, with which one may run any code on the workers, so only its owner may read it
        (mode 0600). What others can read already must not be given away by making it readable: readers refuse that.

        Args:
            secret: False leaves the secret out and lets all read it; who uses it must have the secret from elsewhere
                (FUTUREBROKER_SECRET).

        Raises:
            ConfigError: ``secret=False``, but the broker's address has a password.
            OSError: it can't be written.
        """
        connection = self._connection
        known = connection.secret.decode() if secret else None
        schedulerfile.write(scheduler_file, SchedulerFile(connection.url, connection.cluster, known))

    def _before_opening(self, connection: Connection) -> None:
        """What topics have to say before the scheduler is met."""

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
            about=self._about,
            transfer=data_transfer(settings),
        )

    def close(self) -> Any:
        """Cancel what is pending, leave the cluster, and end it if this client started it. May be called twice."""
        return self._enter(self._close)

    async def _close(self, blocking: bool) -> None:
        if self._live is None or self.status in ("closed", "forked"):
            return
        self.status = "closed"
        atexit.unregister(self._at_exit)
        _defaults[:] = [other for other in _defaults if other() is not None and other() is not self]
        daskdefault.step_down(self)
        connection, submitter = self._live
        await connection.close(blocking)
        submitter.data.close()
        if self._owns_cluster and self.cluster is not None:
            if blocking:
                self.cluster.close()
            else:
                await asyncio.to_thread(self.cluster.close)

    def _at_exit(self) -> None:
        run_blocking(self._close(True))

    def _end_copy(self) -> None:
        """This is a copy in a forked process: it has no threads, and the connection is not its own."""
        self.status = "forked"
        if self._live is not None:
            self._live[0].end_copy(self._owner)

    def __reduce__(self) -> Any:
        raise TypeError("a client can't be sent to a task; futurebroker.get_client() gives one there")

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
    def current(cls) -> Self:
        """The client of the innermost `as_current` here, else the last one that was made and is open.

        Raises:
            ValueError: there is none.
        """
        client = _current.get()
        if cls.client_of_task is None and current_task.get(None) is not None:
            import_module(INSIDE)
        if client is None and cls.client_of_task is not None:
            client = cls.client_of_task()
        if client is not None:
            return cast(Self, client)
        for reference in reversed(_defaults):
            client = reference()
            if client is not None and client.status == "running":
                return cast(Self, client)
        raise ValueError("no client is open here; make one with Client(...)")

    @contextlib.contextmanager
    def as_current(self) -> Iterator[Self]:
        """Have `Client.current` give this client within a ``with``, in this thread or asyncio task only."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

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
        return f"<Client: {self._name} {self.status} {self.scheduler_address!r}{held}{self._at_a_glance()}>"

    def _at_a_glance(self) -> str:
        """What topics add to the client's repr."""
        return ""

    def _repr_html_(self) -> str:
        rows = {
            "status": self.status,
            "scheduler": self.scheduler_address or "-",
            "program": os.path.basename(sys.argv[0]),
        }
        if self._live is not None:
            rows["futures held"] = f"{len(self._live[0].states):,}"
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
        cells += self._more_rows()
        return f"<table><caption>Client {html.escape(self._name)}</caption>{cells}</table>"

    def _more_rows(self) -> str:
        """Rows that topics add to the client's HTML."""
        return ""

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


def _keeper_here() -> Keeper | None:
    """The connection of the current client, for futures that are unpickled here."""
    try:
        client = ClientCore.current()
    except ValueError:
        return None
    return client._live[0] if client._live is not None else None


find_keeper[:] = [_keeper_here]


def _end_copies() -> None:
    for client in list(_running):
        client._end_copy()
    _running.clear()


os.register_at_fork(after_in_child=_end_copies)
