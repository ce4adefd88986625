"""A scheduler and workers on this machine, for one program: what ``Client()`` without an address starts.

They are processes of their own, or, with ``processes=False``, live on one thread of this process. Either way they end
with the cluster, and the cluster ends with the program.
"""

from __future__ import annotations

import asyncio
import html
import itertools
import os
import secrets
import threading
import time
import weakref
from collections.abc import Coroutine, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from futurebroker.client.client import Client
from futurebroker.config import load_settings
from futurebroker.exceptions import FuturebrokerError
from futurebroker.processes import DRAIN, END_TIMEOUT, SYS_PATH_VARIABLE, Child, import_path
from futurebroker.scheduler.main import service_for, settled
from futurebroker.scheduler.service import SchedulerService
from futurebroker.worker.service import WorkerService

_T = TypeVar("_T")

#: seconds a worker that leaves has to finish what it runs
DRAIN_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """One worker of a local cluster."""

    name: str
    pid: int  #: of the worker's process; this one with ``processes=False``
    executors: int
    threads: int  #: of each executor


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What every scheduler and worker of one cluster is told."""

    name: str
    secret: str
    host: str
    port: int
    executors: int  #: of each worker
    threads: int  #: of each executor
    memory_limit: int | Literal["auto"] | None
    timeout: float  #: seconds within which what is started must serve
    log_level: str
    conduct: Mapping[str, Any]  #: how the scheduler behaves; see `futurebroker.scheduler.main.settled`
    broker_url: str | None = None  #: a broker that runs already, in place of ``host`` and ``port``


class _Machinery(Protocol):
    """The two ways to run a cluster."""

    url: str

    @property
    def workers(self) -> dict[str, LocalWorker]: ...

    def start(self, names: Sequence[str]) -> None: ...
    def add(self, names: Sequence[str]) -> None: ...
    def remove(self, names: Sequence[str]) -> None: ...
    def close(self) -> None: ...


# -- with processes ------------------------------------------------------------------------------------------------


class ClusterProcesses:
    """A process for the scheduler and one for each worker, which has its executors' processes below it."""

    def __init__(self, plan: ClusterPlan) -> None:
        self.url = ""
        self._plan = plan
        self._scheduler: Child | None = None
        self._children: dict[str, Child] = {}

    @property
    def workers(self) -> dict[str, LocalWorker]:
        plan = self._plan
        return {
            name: LocalWorker(name, child.pid, plan.executors, plan.threads)
            for name, child in list(self._children.items())
            if child.alive
        }

    @property
    def children(self) -> list[Child]:
        """The processes that run, or are about to."""
        return [*([self._scheduler] if self._scheduler is not None else []), *self._children.values()]

    def start(self, names: Sequence[str]) -> None:
        """Start all at once: the workers' interpreters load while the scheduler finds its port."""
        plan = self._plan
        deadline = time.monotonic() + plan.timeout
        self._scheduler = Child("scheduler", "futurebroker.scheduler.main")
        self._spawn(names)
        self._scheduler.order(
            {
                "cluster": plan.name,
                "secret": plan.secret,
                "broker_url": plan.broker_url,
                "host": plan.host,
                "port": plan.port,
                "log_level": plan.log_level,
                **plan.conduct,
            }
        )
        self.url = self._scheduler.report(plan.timeout)["url"]
        self._employ(names, deadline)

    def add(self, names: Sequence[str]) -> None:
        deadline = time.monotonic() + self._plan.timeout
        self._spawn(names)
        try:
            self._employ(names, deadline)
        except BaseException:
            self._end([self._children.pop(name) for name in names])
            raise

    def remove(self, names: Sequence[str]) -> None:
        leaving = [self._children.pop(name) for name in names]
        for child in leaving:
            child.order(DRAIN)
        deadline = time.monotonic() + DRAIN_TIMEOUT
        for child in leaving:
            child.wait(max(deadline - time.monotonic(), END_TIMEOUT))

    def close(self) -> None:
        """Workers first: while the scheduler is there, they can say goodbye."""
        children = list(self._children.values())
        self._children.clear()
        self._end(children)
        if self._scheduler is not None:
            self._end([self._scheduler])
            self._scheduler = None

    def _spawn(self, names: Sequence[str]) -> None:
        environ = {SYS_PATH_VARIABLE: import_path()}
        for name in names:
            self._children[name] = Child(f"worker {name}", "futurebroker.worker.main", environ)

    def _employ(self, names: Sequence[str], deadline: float) -> None:
        plan = self._plan
        for name in names:
            self._children[name].order(
                {
                    "url": self.url,
                    "cluster": plan.name,
                    "secret": plan.secret,
                    "name": name,
                    "executors": plan.executors,
                    "threads": plan.threads,
                    "memory_limit": plan.memory_limit,
                    "timeout": plan.timeout,
                    "log_level": plan.log_level,
                }
            )
        for name in names:
            self._children[name].report(max(deadline - time.monotonic(), 0.001))

    @staticmethod
    def _end(children: Sequence[Child]) -> None:
        for child in children:
            child.tell_end()
        deadline = time.monotonic() + END_TIMEOUT
        for child in children:
            child.end(max(deadline - time.monotonic(), 0.1))


# -- with one thread -----------------------------------------------------------------------------------------------


class _OneThread:
    """Scheduler and workers on one asyncio loop in a thread of this process; executors are threads as well."""

    def __init__(self, plan: ClusterPlan) -> None:
        self.url = ""
        self.workers: dict[str, LocalWorker] = {}
        self._plan = plan
        self._services: dict[str, WorkerService] = {}
        self._scheduler: SchedulerService | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"futurebroker-{plan.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def start(self, names: Sequence[str]) -> None:
        self._call(self._start())
        self.add(names)

    async def _start(self) -> None:
        plan = self._plan
        place = {"cluster": plan.name, "secret": plan.secret, "broker_url": f"memory://{plan.name}"}
        self._scheduler = service_for({**place, **plan.conduct})
        await self._scheduler.start()
        self.url = self._scheduler.url

    def add(self, names: Sequence[str]) -> None:
        self._call(self._add(names))

    async def _add(self, names: Sequence[str]) -> None:
        plan = self._plan
        for name in names:
            service = WorkerService(
                url=self.url,
                cluster=plan.name,
                secret=plan.secret.encode(),
                name=name,
                executors=plan.executors,
                threads=plan.threads,
                memory_limit=plan.memory_limit,
                processes=False,
            )
            self._services[name] = service
            try:
                await service.start(plan.timeout)
            except BaseException:
                await self._services.pop(name).close(drain=False)
                raise
            self.workers[name] = LocalWorker(name, os.getpid(), plan.executors, plan.threads)

    def remove(self, names: Sequence[str]) -> None:
        self._call(self._remove(names, drain=True))

    async def _remove(self, names: Sequence[str], *, drain: bool) -> None:
        for name in names:
            self.workers.pop(name, None)
        await asyncio.gather(*(self._services.pop(name).close(drain=drain) for name in names))

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        try:
            self._call(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _close(self) -> None:
        await self._remove(list(self._services), drain=False)
        if self._scheduler is not None:
            await self._scheduler.close()


# -- the cluster ---------------------------------------------------------------------------------------------------


class LocalCluster:
    """A scheduler and ``n_workers`` workers on this machine; ended by `close`, ``with``, or the program's end.

    One worker serves a whole machine by starting an executor process per core, so ``n_workers=1`` is the default;
    more workers share the cores. With ``asynchronous=True`` it starts when it is awaited or entered by ``async with``,
    and its methods return awaitables.

    Args:
        executors_per_worker: processes that run tasks; by default the machine's cores, shared among the workers.
        threads_per_worker: threads in each executor process, for code that releases the GIL.
        processes: False runs everything inside this process, which starts faster and is easier to debug.
        memory_limit: of each worker: bytes, ``"4GB"``, ``"auto"`` (the default) or ``"none"``.
        silence_logs: False shows what scheduler and workers log from INFO on, a level's name from that level on.
        timeout: seconds within which all must have started.
    """

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        executors_per_worker: int | None = None,
        processes: bool = True,
        memory_limit: int | str | None = None,
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        silence_logs: bool | str = True,
        asynchronous: bool = False,
        timeout: float = 30.0,
    ) -> None:
        settings = load_settings(
            executors=executors_per_worker, nthreads=threads_per_worker, memory_limit=memory_limit, cluster=name
        )
        count = _at_least(0, "n_workers", 1 if n_workers is None else n_workers)
        plan = ClusterPlan(
            name or f"local-{secrets.token_hex(4)}",
            secrets.token_hex(32),
            host,
            port,
            settings.executors or max(1, cores() // max(1, count)),
            settings.nthreads,
            settings.memory_limit,
            timeout,
            silence_logs if isinstance(silence_logs, str) else "warning" if silence_logs else "info",
            settled(settings),
        )
        self.asynchronous = asynchronous
        self.processes = processes
        self.status = "created"
        self._plan = plan
        self._initial = count
        self._numbers = itertools.count(1)
        # One change at a time: what `scale` adds must not escape a `close` in another thread.
        self._changing = threading.Lock()
        self._changed = threading.Condition()
        self._machinery: _Machinery | None = None
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
    def workers(self) -> dict[str, LocalWorker]:
        """The running workers, by name."""
        return dict(self._machinery.workers) if self._machinery is not None else {}

    def __repr__(self) -> str:
        where = self.scheduler_address or self.status
        plan = self._plan
        return (
            f"<LocalCluster {where!r}: workers={len(self.workers)} executors={plan.executors} threads={plan.threads}>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "scheduler": self.scheduler_address or self.status,
            "workers": len(self.workers),
            "executors per worker": self._plan.executors,
            "threads per executor": self._plan.threads,
            "processes": "yes" if self.processes else "no",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows.items())
        return f"<table><caption>LocalCluster {html.escape(self.name)}</caption>{cells}</table>"

    # -- what it does ----------------------------------------------------------------------------------------------

    def get_client(self, **arguments: Any) -> Client:
        """A client of this cluster; ``arguments`` are Client's own. The cluster outlives it."""
        return Client(self, **{"asynchronous": self.asynchronous, **arguments})

    def scale(self, n: int) -> Any:
        """Have ``n`` workers: returns when new ones are connected, or superfluous ones have finished and left."""
        return self._perform(self._scale, _at_least(0, "n", n))

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
            machinery: _Machinery = ClusterProcesses(self._plan) if self.processes else _OneThread(self._plan)
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

    def _close(self) -> None:
        with self._changing:
            self.status = "closed"
            if self._machinery is not None:
                self._ending()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _end(machinery: _Machinery, owner: int) -> None:
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


def _at_least(minimum: int, name: str, value: int) -> int:
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {value}")
    return value
