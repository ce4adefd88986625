"""A client inside a task: it reaches the scheduler over its worker's connection; what it submits is the task's.

An executor has one such client, and another one for its coroutines, made when a task first asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from futurebroker.client.calls import Call
from futurebroker.client.client import Client
from futurebroker.client.core import ClientCore
from futurebroker.client.futures import Future
from futurebroker.client.submitting import Submitter, pure_key
from futurebroker.client.waiters import run_blocking
from futurebroker.exceptions import FuturebrokerError, TaskError
from futurebroker.inside import NO_TASK, CurrentTask, Host, current_task
from futurebroker.protocol.messages import TaskOptions
from futurebroker.types import Key

#: seconds to wait for the scheduler, unless a task says otherwise
TIMEOUT = 30.0


class TaskSubmitter(Submitter):
    """Gives what a task submits keys that follow from the task's own.

    When its worker is lost and the task runs again, it submits the same keys, and the scheduler gives what has been
    done of them. The keys tell equal calls apart by counting them, and different ones by what they call; a task that
    failed and is retried submits other keys.
    """

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """See `Submitter.submit`."""
        return self.submit_with(function, args, kwargs, None, None, False)

    def _call(self, function: Callable[..., Any], options: TaskOptions | None, name: str = "") -> Call:
        _, parent, slot, _ = current_task.get(NO_TASK)
        call = super()._call(function, options, name)
        if slot is not None:
            call.parent = parent
        return call

    def _start_named(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], key: Key | None, pure: bool
    ) -> Future[Any]:
        if not call.parent:
            return super()._start_named(call, args, kwargs, key, pure)
        if key is not None:
            known = self._known(key)
            if known is not None:
                return known
        packed = self._pack(call, args, kwargs)
        if key is None:
            key = pure_key(call, packed)
            if not pure:
                key = _key_of_child(call, key)
        return self._start_keyed(call, packed, key)

    def _map_columns(self, call: Call, rows: Iterator[tuple[Any, ...]], kwargs: dict[str, Any]) -> list[Future[Any]]:
        return [self._start_named(call, row, kwargs, None, False) for row in rows]


def _key_of_child(call: Call, pure: Key) -> Key:
    """The key of a call that the current task makes; ``pure`` is the one that all equal calls have."""
    place, parent, slot, number = current_task.get()
    digest = hashlib.sha256(pure.encode())
    counts = slot.calls(number) if slot is not None else {}
    name = digest.digest()[:16]
    counts[name] = count = counts.get(name, 0) + 1
    failures = place.host.failures.get(parent, 0) if place.host is not None else 0
    digest.update(f"{parent}\0{count}\0{failures}".encode())
    return f"{call.name}-{digest.hexdigest()[:32]}"


class TaskClient(Client):
    """What `get_client` gives: a `Client` that is never closed by tasks, because others of the executor use it too."""

    _submitter_class: ClassVar[type[Submitter]] = TaskSubmitter
    _about: ClassVar[dict[str, Any]] = {"inside": True}

    def close(self) -> Any:
        """Does nothing: the client ends with its executor."""
        return self._done()

    def fence(self) -> None:
        """Return once the scheduler has taken what was submitted here; at once if nothing of it is open."""
        live = self._live
        if live is not None and self.status == "running" and live[0].intake.has_open():
            with contextlib.suppress(FuturebrokerError):
                run_blocking(live[0].ask("fence", None, True, TIMEOUT))

    def become(self, asynchronous: bool) -> None:
        """Have methods that wait return awaitables, or not."""
        self.asynchronous = self._connection.asynchronous = asynchronous

    def end(self) -> None:
        """Leave the cluster; called by the executor."""
        self.asynchronous = False
        super().close()


class _Gateway:
    """An executor as the "cluster" that its clients join."""

    loop = None

    def __init__(self, host: Host) -> None:
        self.scheduler_address = host.address
        self.name = host.cluster
        self.secret = host.secret

    def close(self) -> None:
        """The executor ends by itself."""


def get_client(address: str | None = None, timeout: float | None = None) -> Client:
    """The client of this task, through which it submits further tasks; outside of tasks `Client.current`.

    Experimental: details may change before version 1.

    What a task submits is kept for it until it ends, also if its worker is lost and it runs again elsewhere, and is
    cancelled with it. A task that waits for a future gives up its slot meanwhile, so that recursion can't deadlock. In
    an ``async def`` task the client is asynchronous. As in dask.distributed it is shared by all tasks of an executor.

    Args:
        address: where to connect to instead.
        timeout: seconds to wait for the scheduler.

    Raises:
        ValueError: this isn't a task, and no client is open.
        NoSchedulerError: the worker has no connection to the scheduler now.
    """
    if address is not None:
        return Client(address, timeout=timeout)
    return _client_of(current_task.get(None), timeout) or Client.current()


def _client_of(task: CurrentTask | None, timeout: float | None = None) -> Client | None:
    host = task[0].host if task is not None else None
    if host is None:
        return None
    asynchronous = _in_event_loop()
    client: TaskClient | None = host.clients.get(asynchronous)
    if client is not None and client.status == "running":
        return client
    with host.making:
        client = host.clients.get(asynchronous)
        if client is None or client.status != "running":
            patience = TIMEOUT if timeout is None else timeout
            name = f"{host.worker}-task"
            client = TaskClient(_Gateway(host), name=name, set_as_default=False, timeout=patience)
            client.become(asynchronous)
            host.clients[asynchronous] = client
        return client


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _client_here() -> Client | None:
    return _client_of(current_task.get(None))


@contextlib.contextmanager
def worker_client(timeout: float | None = None, separate_thread: bool = True) -> Iterator[Client]:
    """`get_client` for a ``with`` block, in which the task has no slot: others run in its place, and it runs beside.

    Experimental, as `get_client`.

    Args:
        timeout: seconds to wait for the scheduler.
        separate_thread: False leaves the task its slot; it is given up only while the task waits for futures.
    """
    client = get_client(timeout=timeout)
    if separate_thread:
        secede()
    try:
        with client.as_current():
            yield client
    finally:
        if separate_thread:
            rejoin()


#: the name of `worker_client` in dask.distributed 1.13
local_client = worker_client


def secede() -> None:
    """Give up this task's slot until it ends, or calls `rejoin`: others run in its place.

    Experimental. For tasks that wait otherwise than by futures, queues and locks of ours, which give up the slot by
    themselves.

    Raises:
        TaskError: this isn't a task, or a thousand tasks of this executor have no slot already.
    """
    _, _, slot, number = _this_task("secede")
    assert slot is not None
    slot.secede(number)


def rejoin() -> None:
    """Take a slot again after `secede`; blocks until one is free. Experimental.

    Raises:
        TaskError: this isn't a task, or it has its slot.
    """
    _, _, slot, number = _this_task("rejoin")
    assert slot is not None
    slot.rejoin(number)


def _this_task(what: str) -> CurrentTask:
    task = current_task.get(None)
    if task is None or task[2] is None:
        raise TaskError(f"{what}() works only inside a task")
    return task


ClientCore.client_of_task = staticmethod(_client_here)

__all__ = ["get_client", "local_client", "rejoin", "secede", "worker_client"]
