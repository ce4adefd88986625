"""A cluster to be ill-treated: a scheduler, and workers in processes of their own, each behind a wire of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psutil

from futurebroker import Client
from futurebroker.processes import SYS_PATH_VARIABLE, Child, import_path
from tests.chaos.proxy import Switchboard, Wire
from tests.chaos.rabbitmq import RabbitMQ

#: seconds a process gets to serve
START_TIMEOUT = 60.0


class Outpost:
    """A worker and the wire that it reaches the broker by; another takes its place after `kill`."""

    def __init__(self, rig: Rig, name: str, wire: Wire) -> None:
        self.name = name
        self.wire = wire
        self.child: Child | None = None
        self._rig = rig

    def start(self, wait: bool = True) -> None:
        """Start the worker; with ``wait`` it has joined when this returns."""
        self.child = Child(f"worker {self.name}", "futurebroker.worker.main", {SYS_PATH_VARIABLE: import_path()})
        self.child.order(
            {
                "url": self._rig.url_through(self.wire),
                "cluster": self._rig.cluster,
                "secret": self._rig.secret,
                "name": self.name,
                "executors": self._rig.executors,
                "timeout": START_TIMEOUT,
                "log_level": self._rig.log_level,
            }
        )
        if wait:
            self.report()

    def report(self) -> None:
        """Wait until it has joined."""
        assert self.child is not None
        self.child.report(START_TIMEOUT)

    @property
    def pid(self) -> int:
        """Of the agent."""
        assert self.child is not None
        return self.child.pid

    def executors(self) -> list[int]:
        """The process ids of its executors, as far as they have begun."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return sorted(child.pid for child in psutil.Process(self.pid).children())
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send the agent a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the agent, and wait for its end."""
        child, self.child = self.child, None
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        child.wait(START_TIMEOUT)

    def end(self) -> None:
        """Whatever it is doing, have it gone."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child.pid, signal.SIGCONT)
            self.child.end()
            self.child = None


class Rig:
    """See the top of this file.

    Args:
        broker: a broker that runs already; without one the scheduler serves its own.
        executors: processes of each worker.
        conduct: of the scheduler, such as ``suspect_grace``.
    """

    def __init__(
        self,
        workers: int,
        *,
        executors: int = 1,
        broker: str | None = None,
        log_level: str = "error",
        **conduct: Any,
    ) -> None:
        self.cluster = f"chaos-{secrets.token_hex(4)}"
        self.secret = secrets.token_hex(16)
        self.executors = executors
        self.log_level = log_level
        self.outposts: list[Outpost] = []
        self._count = workers
        self._broker = broker
        #: a broker of our own that may be killed
        self.rabbitmq: RabbitMQ | None = None
        #: how the scheduler reaches a broker that isn't its own
        self.scheduler_wire: Wire | None = None
        self._conduct = conduct
        self._url = ""
        self._port = 0
        self._scheduler: Child | None = None
        self._board: Switchboard
        self.client_wire: Wire

    def start(self) -> None:
        """Start scheduler and workers; returns when all have joined."""
        self._board = Switchboard()
        try:
            if self._broker is not None:
                self._url = self._broker
                self._port = urlsplit(self._url).port or 5672
                self.scheduler_wire = self.wire()
            self.start_scheduler()
            self.client_wire = self.wire()
            for number in range(self._count):
                self.outposts.append(Outpost(self, f"w{number}", self.wire()))
                self.outposts[-1].start(wait=False)
            for outpost in self.outposts:
                outpost.report()
        except BaseException:
            self.close()
            raise

    def start_scheduler(self) -> None:
        """Start the scheduler, at the port of the one before if there was one."""
        self._scheduler = Child("scheduler", "futurebroker.scheduler.main")
        self._scheduler.order(
            {
                "cluster": self.cluster,
                "secret": self.secret,
                "broker_url": self.url_through(self.scheduler_wire) if self.scheduler_wire is not None else None,
                "host": "127.0.0.1",
                "port": self._port,
                "log_level": self.log_level,
                **self._conduct,
            }
        )
        url = self._scheduler.report(START_TIMEOUT)["url"]
        if self._broker is None:
            self._url = url
            self._port = urlsplit(url).port or 5672

    def kill_scheduler(self) -> None:
        """SIGKILL to the scheduler, and with it to its embedded broker."""
        child, self._scheduler = self._scheduler, None
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        child.wait(START_TIMEOUT)

    def stop_scheduler(self, number: signal.Signals) -> None:
        """Have it stand still, or go on."""
        assert self._scheduler is not None
        os.kill(self._scheduler.pid, number)

    def wire(self) -> Wire:
        """A new way to the broker."""
        return self._board.wire(urlsplit(self._url).hostname or "127.0.0.1", self._port)

    def url_through(self, wire: Wire) -> str:
        """The broker's address with ``wire`` in its place."""
        parts = urlsplit(self._url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{wire.port}"))

    def client(self, **options: Any) -> Client:
        """A client that comes by the client's wire."""
        return Client(
            self.url_through(self.client_wire), secret=self.secret, cluster=self.cluster, timeout=START_TIMEOUT,
            **options,
        )  # fmt: skip

    def close(self) -> None:
        """End everything."""
        for outpost in self.outposts:
            outpost.end()
        if self._scheduler is not None:
            self.stop_scheduler(signal.SIGCONT)
            self._scheduler.end()
        self._board.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
