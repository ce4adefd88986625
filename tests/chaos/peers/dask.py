"""dask.distributed: a scheduler, workers below nannies, and a client, each by its command or class."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distributed import Client

from tests.chaos.peers.processes import PeerWorker, kill, start, until_it_listens
from tests.chaos.proxy import Switchboard, Wire
from tests.integration.test_scheduler_restart import free_port

#: seconds until workers must have joined
TIMEOUT = 60


class DaskRig:
    """See `tests.chaos.rig.Rig`. What workers say to the scheduler passes their wires; its calls to them don't."""

    rabbitmq = None
    scheduler_wire = None

    def __init__(self, workers: int) -> None:
        self.outposts: list[PeerWorker] = []
        self._count = workers
        self._port = free_port()
        self._board = Switchboard()
        self._scheduler: subprocess.Popen[bytes] | None = None
        self.client_wire: Wire

    def start_scheduler(self) -> None:
        """Start the scheduler, at the same port each time."""
        self._scheduler = start(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard"
        )
        until_it_listens(self._port)

    def kill_scheduler(self) -> None:
        """SIGKILL to the scheduler."""
        assert self._scheduler is not None
        kill(self._scheduler)

    def stop_scheduler(self, number: signal.Signals) -> None:
        """Have it stand still, or go on."""
        assert self._scheduler is not None
        self._scheduler.send_signal(number)

    def client(self) -> Any:
        """A client that comes by the client's wire, once all workers are there."""
        client: Any = Client(f"tcp://127.0.0.1:{self.client_wire.port}", timeout=TIMEOUT)  # type: ignore[no-untyped-call,unused-ignore]
        client.wait_for_workers(self._count, timeout=TIMEOUT)
        return client

    def __enter__(self) -> Self:
        self.start_scheduler()
        self.client_wire = self._board.wire("127.0.0.1", self._port)
        for number in range(self._count):
            wire = self._board.wire("127.0.0.1", self._port)
            address = f"tcp://127.0.0.1:{wire.port}"
            command = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard")
            self.outposts.append(PeerWorker(f"w{number}", wire, (*command, "--host", "127.0.0.1")))
            self.outposts[-1].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for outpost in self.outposts:
            outpost.end()
        if self._scheduler is not None:
            kill(self._scheduler)
        self._board.close()


def make_rig(workers: int, broker: str | None, folder: Path) -> DaskRig:
    """See `tests.chaos.runner.rig_for`."""
    return DaskRig(workers)
