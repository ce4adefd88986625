"""An IPython kernel in an executor: its channels travel over the executor's own link to the scheduler."""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any

from futurebroker.exceptions import FuturebrokerError
from futurebroker.inside import current_task
from futurebroker.kernels import Kernel
from futurebroker.protocol.messages import ToPeer
from futurebroker.worker import standing
from futurebroker.worker.context import get_worker

#: module of clients inside executors; loaded by name, because it stands beside this one
INSIDE = "futurebroker.client.inside"

_lock = threading.Lock()
_kernels: list[Kernel] = []


class WorkerView:
    """The worker as its console sees it: read-only, and asked anew at each look."""

    def __init__(self, client: Any) -> None:
        about = get_worker()
        self._client = client
        #: what people and the cluster know it by
        self.name, self.id = about.name, about.id
        #: of the executor that the console runs in
        self.pid = about.pid
        #: what it offers in all
        self.resources = dict(about.resources)

    @property
    def active(self) -> set[str]:
        """The keys of the tasks that run now, in any of the worker's executors."""
        return set(self._client._ask("call_stack", {"workers": [self.id]}))

    @property
    def processing(self) -> set[str]:
        """The keys of the tasks it was sent and has not reported back."""
        return set(self._client.processing(self.id)[self.id])

    @property
    def data(self) -> set[str]:
        """The keys of the results it holds."""
        return set(self._client.has_what(self.id)[self.id])

    def __repr__(self) -> str:
        return f"<worker {self.name}: executor process {self.pid}>"


def start(channel: str) -> dict[str, Any]:
    """Start this process's kernel, if it isn't there, and join a client's channel to it; what the client must know."""
    place = current_task.get()[0]
    if place.host is None:
        raise FuturebrokerError("this executor has no way to the scheduler")
    store = standing.own_store(place.id)
    if store is None:
        raise FuturebrokerError("executors that are threads of the program (processes=False) can't have a kernel")
    client = import_module(INSIDE).get_client()
    with _lock:
        if not _kernels:
            _kernels.append(Kernel({"worker": WorkerView(client), "client": client}, str(store)))
        kernel = _kernels[0]
    connection = client._connection
    client._ask("open_channel", {"channel": channel, "kernel": True})

    def send(frames: list[bytes]) -> None:
        connection.put(ToPeer(channel, frames))
        connection.flush()

    connection.channels[channel] = kernel.bridge(channel, send).feed
    return {"key": kernel.key, "pid": os.getpid()}
