"""A scheduler and workers on this machine, for one program: what ``Client()`` without an address starts.

They are processes of their own, or, with ``processes=False``, live on one thread of this process. Either way they end
with the cluster, and the cluster ends with the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import itertools
import math
import os
import secrets
import threading
import weakref
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from futurebroker.adaptive import Adaptive
from futurebroker.amounts import parse_duration, show_bytes
from futurebroker.client.client import Client, Executor
from futurebroker.config import load_settings, scheduler_conduct, storage_orders
from futurebroker.exceptions import FuturebrokerError
from futurebroker.launch import ClusterPlan, ClusterProcesses, LocalWorker, Machinery, cores
from futurebroker.orders import worker_data
from futurebroker.worker.limits import resolve_limit

__all__ = ["Client", "Executor", "LocalCluster", "LocalWorker"]

#: module of the machinery for ``processes=False``; loaded by name, because the usual program needs no scheduler in it
ONE_THREAD = "futurebroker.inprocess"


class LocalCluster:
    """A scheduler and ``n_workers`` workers on this machine; ended by `close`, ``with``, or the program's end.

    One worker serves a whole machine by starting an executor process per core, so ``n_workers=1`` is the default;
    more workers share the cores. With ``asynchronous=True`` it starts when it is awaited or entered by ``async with``,
    and its methods return awaitables.

    Args:
        executors_per_worker: processes that run tasks; by default the machine's cores, shared among the workers.
        threads_per_worker: threads in each executor process, for code that releases the GIL.
        processes: False runs everything inside this process, which starts faster and is easier to debug.
        memory_limit: of each worker with its executors and results: bytes, ``"4GB"``, a part of the machine's memory
            like ``0.5``, ``"auto"`` (an equal share of it, the default), or ``"none"``. Near it results go to disk.
        local_folder: where results that go to disk are kept; by default where temporary files are.
        journal: what survives the end of the scheduler: ``"none"``, or ``"process"`` and ``"full"`` as of
            `futurebroker scheduler --journal`, in the database at ``database_url`` or a file.
        silence_logs: False shows what scheduler and workers log from INFO on, a level's name from that level on.
        allow_run_on_scheduler: let `Client.run_on_scheduler`, scheduler plugins and an IPython kernel run code in the
            scheduler's process.
        dashboard_address: where the dashboard listens once somebody asks for it: ``":8788"``, ``8788`` or
            ``"host:8788"``; None: there is none. By default the settings say (``web_host``, ``web_port``).
        timeout: seconds within which all must have started.
    """

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        executors_per_worker: int | None = None,
        processes: bool = True,
        memory_limit: int | float | str | None = None,
        *,
        local_folder: str | None = None,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        silence_logs: bool | str = True,
        journal: str = "none",
        database_url: str | None = None,
        allow_run_on_scheduler: bool | None = None,
        dashboard_address: str | int | None = "",
        asynchronous: bool = False,
        timeout: float = 30.0,
    ) -> None:
        settings = load_settings(
            executors=executors_per_worker,
            nthreads=threads_per_worker,
            memory_limit=memory_limit,
            local_folder=local_folder,
            cluster=name,
            journal=journal,
            database_url=database_url,
            allow_run_on_scheduler=allow_run_on_scheduler,
            **_dashboard(dashboard_address),
        )
        count = _at_least(0, "n_workers", 1 if n_workers is None else n_workers)
        storage = storage_orders(settings)
        plan = ClusterPlan(
            name or f"local-{secrets.token_hex(4)}",
            secrets.token_hex(32),
            host,
            port,
            settings.executors or max(1, cores() // max(1, count)),
            settings.nthreads,
            worker_data(settings, 1 / max(1, count)),
            timeout,
            silence_logs if isinstance(silence_logs, str) else "warning" if silence_logs else "info",
            {**scheduler_conduct(settings), "storage": storage},
            web_host=settings.web_host,
            web_port=settings.web_port,
            # What is to survive the scheduler shall not end with it.
            hosts=storage is None,
        )
        self.asynchronous, self.processes, self.status = asynchronous, processes, "created"
        self._plan = plan
        self._has_dashboard = settings.dashboard
        self._initial = count
        self._numbers = itertools.count(1)
        # One change at a time: what `scale` adds must not escape a `close` in another thread.
        self._changing = threading.Lock()
        self._changed = threading.Condition()
        self._machinery: Machinery | None = None
        self._adaptive: Adaptive | None = None
        if not asynchronous:
            self._start()

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The cluster's name, which clients and workers of it must know."""
        return self._plan.name

    @property
    def secret(self) -> bytes:
        """What messages are signed with; made for this cluster, known to nobody else."""
        return self._plan.secret.encode()

    @property
    def scheduler_address(self) -> str:
        """Where clients connect to; empty until the cluster has started."""
        return self._machinery.url if self._machinery is not None else ""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that everything runs on with ``processes=False``, else None."""
        return self._machinery.loop if self._machinery is not None else None

    @property
    def workers(self) -> dict[str, LocalWorker]:
        """The running workers, by name."""
        return dict(self._machinery.workers) if self._machinery is not None else {}

    def __repr__(self) -> str:
        where = self.scheduler_address or self.status
        plan = self._plan
        return (
            f"<LocalCluster {where!r}: workers={len(self.workers)} executors={plan.executors} threads={plan.threads} "
            f"memory={self._memory_limit()}>"
        )

    def _memory_limit(self) -> str:
        memory = self._plan.memory
        limit = resolve_limit(memory["memory_limit"], memory["memory_share"]).nbytes
        return show_bytes(limit) if limit else "unlimited"

    def _repr_html_(self) -> str:
        rows = {
            "scheduler": self.scheduler_address or self.status,
            "workers": len(self.workers),
            "executors per worker": self._plan.executors,
            "threads per executor": self._plan.threads,
            "memory limit per worker": self._memory_limit(),
            "processes": "yes" if self.processes else "no",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows.items())
        with contextlib.suppress(FuturebrokerError):
            link = html.escape(self.dashboard_link, quote=True)
            cells += f'<tr><th>dashboard</th><td><a href="{link}" target="_blank" rel="noopener">{link}</a></td></tr>'
        return f"<table><caption>LocalCluster {html.escape(self.name)}</caption>{cells}</table>"

    @property
    def dashboard_link(self) -> str:
        """The address of this cluster's dashboard, with the token that opens it; the first to ask starts the site.

        Raises:
            FuturebrokerError: the cluster doesn't run, or it was made without a dashboard.
            StartError: the site could not start.
        """
        with self._changing:
            if self._machinery is None or self.status != "running":
                raise FuturebrokerError(f"the cluster {self.name} is {self.status}")
            if not self._has_dashboard:
                raise FuturebrokerError(
                    "this cluster has no dashboard: dashboard_address= or the setting dashboard says so"
                )
            return self._machinery.dashboard()

    # -- what it does ----------------------------------------------------------------------------------------------

    def get_client(self, **arguments: Any) -> Client:
        """A client of this cluster; ``arguments`` are Client's own. The cluster outlives it."""
        return Client(self, **{"asynchronous": self.asynchronous, **arguments})

    def scale(self, n: int) -> Any:
        """Have ``n`` workers: returns when new ones are connected, or superfluous ones have finished and left."""
        return self._perform(self._scale_to, _at_least(0, "n", n))

    def adapt(
        self,
        minimum: int = 0,
        maximum: float = math.inf,
        target_duration: float | str = 5.0,
        interval: float | str = 1.0,
        wait_count: int = 3,
    ) -> Adaptive:
        """Have as many workers as there is work for, until `scale` or `close` is called.

        Workers that are not needed any more hand over what only they hold, and leave; none is killed.

        Args:
            minimum: workers there are at least, and ``maximum`` at most.
            target_duration: in what time all that is submitted should be done: seconds, or ``"5s"``.
            interval: the time between looks.
            wait_count: looks in a row that must want fewer before one leaves.
        """
        adaptive = Adaptive(
            lambda: Client(self, name="adaptive", set_as_default=False),
            _Workers(self),
            minimum=minimum,
            maximum=maximum,
            target_duration=parse_duration(target_duration),
            interval=parse_duration(interval),
            wait_count=wait_count,
        )
        self._stop_adapting()
        self._adaptive = adaptive
        return adaptive

    def _stop_adapting(self) -> None:
        adaptive, self._adaptive = self._adaptive, None
        if adaptive is not None:
            adaptive.stop()

    def _scale_to(self, n: int) -> None:
        self._stop_adapting()
        self._scale(n)

    def wait_for_workers(self, n_workers: int = 1, timeout: float | None = None) -> Any:
        """Wait until ``n_workers`` run; TimeoutError after ``timeout`` seconds."""
        return self._perform(self._wait_for_workers, n_workers, timeout)

    def close(self) -> Any:
        """End workers and scheduler; unfinished tasks are lost. May be called twice."""
        return self._perform(self._close)

    def __enter__(self) -> Self:
        if self.asynchronous:
            raise TypeError("an asynchronous LocalCluster is entered with: async with")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._begin().__await__()

    async def __aenter__(self) -> Self:
        return await self._begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _in_thread(self._close)

    async def _begin(self) -> Self:
        if self.status == "created":
            await _in_thread(self._start)
        return self

    def _perform(self, work: Any, *arguments: Any) -> Any:
        return _in_thread(work, *arguments) if self.asynchronous else work(*arguments)

    # -- how it does that ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._changing:
            machinery: Machinery = (
                ClusterProcesses(self._plan) if self.processes else import_module(ONE_THREAD).OneThread(self._plan)
            )
            # Also ends it when the program ends or nobody holds this object any more.
            self._ending = weakref.finalize(self, _end, machinery, os.getpid())
            try:
                machinery.start(self._new_names(self._initial))
            except BaseException:
                self.status = "closed"
                self._ending()
                raise
            self._machinery = machinery
            self.status = "running"

    def _new_names(self, count: int) -> list[str]:
        return [f"local-{next(self._numbers)}" for _ in range(count)]

    def _scale(self, n: int) -> None:
        with self._changing:
            if self._machinery is None or self.status != "running":
                raise FuturebrokerError(f"the cluster {self.name} is {self.status}")
            names = list(self._machinery.workers)
            if n > len(names):
                self._machinery.add(self._new_names(n - len(names)))
            else:
                self._machinery.remove(names[n:])
        with self._changed:
            self._changed.notify_all()

    def _wait_for_workers(self, n_workers: int, timeout: float | None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.workers) >= n_workers, timeout):
                raise TimeoutError(f"{len(self.workers)} of {n_workers} workers run after {timeout:g} s")

    def _remove(self, names: list[str]) -> None:
        """These workers have left; their processes end."""
        with self._changing:
            if self._machinery is not None and self.status == "running":
                self._machinery.remove(names)

    def _close(self) -> None:
        self._stop_adapting()
        with self._changing:
            self.status = "closed"
            if self._machinery is not None:
                self._ending()


class _Workers:
    """The workers of a local cluster, as `Adaptive` sees them."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.slots = cluster._plan.executors * cluster._plan.threads

    def count(self, connected: int) -> int:
        """See `adaptive.Target`."""
        return len(self._cluster.workers)

    def scale_up(self, n: int) -> None:
        """See `adaptive.Target`."""
        self._cluster._scale(n)

    def left(self, names: list[str], n: int) -> None:
        """See `adaptive.Target`."""
        self._cluster._remove(names)


def _end(machinery: Machinery, owner: int) -> None:
    """End what was started; in a forked copy of the program nothing was."""
    if os.getpid() == owner:
        machinery.close()


async def _in_thread(work: Any, *arguments: Any) -> Any:
    """Run ``work`` beside the loop, in a thread that is gone afterwards."""
    thread = ThreadPoolExecutor(1, "futurebroker-local")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)
    finally:
        # Whoever cancels the wait must not be held by the work.
        thread.shutdown(wait=False)


def _dashboard(address: str | int | None) -> dict[str, Any]:
    """Settings for ``dashboard_address``.

    Raises:
        ValueError: that is no address to listen at.
    """
    if address is None:
        return {"dashboard": False}
    if address == "":
        return {}
    host, _, port = str(address).rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f'dashboard_address takes ":8787", 8787, "host:8787" or None, got {address!r}')
    return {"web_port": int(port), **({"web_host": host.strip("[]")} if host else {})}


def _at_least(minimum: int, name: str, value: int) -> int:
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {value}")
    return value


Client.local_cluster_factory = LocalCluster
