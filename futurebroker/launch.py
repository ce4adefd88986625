"""A cluster's processes on this machine: what they are told, and how they start, come, go and end together."""

from __future__ import annotations

import asyncio
import html
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from futurebroker.processes import DRAIN, END_TIMEOUT, SYS_PATH_VARIABLE, Child, import_path

#: module of the site's process; loaded there, because nothing else needs Flask
SITE = "futurebroker.web.main"
#: seconds a worker that leaves has to finish what it runs
DRAIN_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """One worker of a local cluster."""

    name: str
    pid: int  #: of the worker's process; this one with ``processes=False``
    executors: int
    threads: int  #: of each executor

    def _repr_html_(self) -> str:
        rows = {"process": self.pid, "executors": self.executors, "threads per executor": self.threads}
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table><caption>Worker {html.escape(self.name)}</caption>{cells}</table>"


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What every scheduler and worker of one cluster is told."""

    name: str
    secret: str
    host: str
    port: int
    executors: int  #: of each worker
    threads: int  #: of each executor
    memory: Mapping[str, Any]  #: of each worker; see `futurebroker.orders.worker_data`
    timeout: float  #: seconds within which what is started must serve
    log_level: str
    conduct: Mapping[str, Any]  #: how the scheduler behaves; see `futurebroker.config.scheduler_conduct`
    broker_url: str | None = None  #: a broker that runs already, in place of ``host`` and ``port``
    log_format: str = "text"
    web_host: str = "127.0.0.1"
    web_port: int = 8787  #: tried first; any free one when it is taken
    #: a single worker's agent may live in the scheduler's process: quicker, but killed together
    hosts: bool = False


class Machinery(Protocol):
    """What runs a cluster: processes, or one thread of this process."""

    url: str

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...

    @property
    def workers(self) -> dict[str, LocalWorker]: ...

    def start(self, names: Sequence[str]) -> None: ...
    def add(self, names: Sequence[str]) -> None: ...
    def remove(self, names: Sequence[str]) -> None: ...
    def dashboard(self) -> str: ...
    def close(self) -> None: ...


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class ClusterProcesses:
    """A process for the scheduler and one for each worker, which has its executors' processes below it."""

    def __init__(self, plan: ClusterPlan) -> None:
        self.url = ""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._plan = plan
        self._scheduler: Child | None = None
        self._site: Child | None = None
        self._children: dict[str, Child] = {}
        #: the worker whose agent lives in the scheduler's process
        self._hosted = ""

    @property
    def workers(self) -> dict[str, LocalWorker]:
        plan = self._plan
        children = {name: child for name, child in list(self._children.items()) if child.alive}
        if self._hosted and self._scheduler is not None and self._scheduler.ask({}, END_TIMEOUT).get("employs"):
            children = {self._hosted: self._scheduler, **children}
        return {name: LocalWorker(name, child.pid, plan.executors, plan.threads) for name, child in children.items()}

    @property
    def children(self) -> list[Child]:
        """The processes that run, or are about to; without the site, which the others can do without."""
        return [*([self._scheduler] if self._scheduler is not None else []), *self._children.values()]

    def dashboard(self) -> str:
        """The link to the cluster's site, which is started when somebody first asks for it.

        Raises:
            StartError: it did not start.
        """
        plan = self._plan
        if self._site is None or not self._site.alive:
            site = Child("dashboard", SITE)
            site.order(
                {
                    "url": self.url,
                    "cluster": plan.name,
                    "secret": plan.secret,
                    "host": plan.web_host,
                    "port": plan.web_port,
                    "history": (plan.conduct.get("history") or {}).get("url"),
                    "log_level": plan.log_level,
                    "log_format": plan.log_format,
                }
            )
            self._site = site
        return str(self._site.report(plan.timeout)["link"])

    def start(self, names: Sequence[str]) -> None:
        """Start all at once: the workers' interpreters load while the scheduler finds its port."""
        plan = self._plan
        deadline = time.monotonic() + plan.timeout
        orders = {
            "cluster": plan.name,
            "secret": plan.secret,
            "broker_url": plan.broker_url,
            "host": plan.host,
            "port": plan.port,
            "log_level": plan.log_level,
            "log_format": plan.log_format,
            **plan.conduct,
        }
        if plan.hosts and len(names) == 1:
            self._start_hosting(orders, names[0])
            return
        self._scheduler = Child("scheduler", "futurebroker.scheduler.main")
        self._spawn(names)
        self._scheduler.order(orders)
        self.url = self._scheduler.report(plan.timeout)["url"]
        self._employ(names, deadline)

    def _start_hosting(self, orders: dict[str, Any], name: str) -> None:
        plan = self._plan
        self._scheduler = Child("scheduler", "futurebroker.hosting", {SYS_PATH_VARIABLE: import_path()})
        self._scheduler.order({**orders, "worker": self._worker_orders(name)})
        self.url = self._scheduler.report(plan.timeout)["url"]
        self._hosted = name

    def _worker_orders(self, name: str) -> dict[str, Any]:
        plan = self._plan
        shape = {"name": name, "executors": plan.executors, "threads": plan.threads}
        return {**shape, **plan.memory, "timeout": plan.timeout}

    def add(self, names: Sequence[str]) -> None:
        deadline = time.monotonic() + self._plan.timeout
        self._spawn(names)
        try:
            self._employ(names, deadline)
        except BaseException:
            self._end([self._children.pop(name) for name in names])
            raise

    def remove(self, names: Sequence[str]) -> None:
        if self._hosted in names and self._scheduler is not None:
            self._hosted = ""
            self._scheduler.ask(DRAIN, DRAIN_TIMEOUT)
        leaving = [self._children.pop(name) for name in names if name in self._children]
        for child in leaving:
            child.order(DRAIN)
        deadline = time.monotonic() + DRAIN_TIMEOUT
        for child in leaving:
            child.wait(max(deadline - time.monotonic(), END_TIMEOUT))

    def close(self) -> None:
        """Workers first: while the scheduler is there, they can say goodbye."""
        children = [*self._children.values(), *([self._site] if self._site is not None else [])]
        self._children.clear()
        self._site = None
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
                    "log_level": plan.log_level,
                    "log_format": plan.log_format,
                    **self._worker_orders(name),
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
