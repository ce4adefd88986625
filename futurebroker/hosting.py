"""The process of a local cluster that has one worker: a scheduler that hosts the worker's agent.

Neither opens or runs what users sent, so sharing a process takes nothing from either's safety, and a task that somebody
waits for changes processes twice less. `futurebroker.processes` says how this process gets its orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from futurebroker.processes import Service, serve_parent
from futurebroker.protocol.near import NearEndpoint, NearMember
from futurebroker.scheduler.main import begin, settings_of
from futurebroker.scheduler.service import SchedulerService
from futurebroker.worker.service import WorkerService


class HostingScheduler(SchedulerService):
    """A scheduler that serves the embedded broker, and a worker beside it."""

    _endpoint: NearEndpoint

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._worker: WorkerService | None = None

    async def _prepare(self) -> None:
        self._endpoint = self._make_endpoint(NearEndpoint)
        self._endpoint.epoch = 1

    async def employ(self, timeout: float, **arguments: Any) -> None:
        """Start the worker; returns when tasks can run. ``arguments`` are those of `WorkerService`.

        Raises:
            FuturebrokerError: see `WorkerService.start`.
        """
        assert self._broker is not None
        link = partial(NearMember, scheduler=self._endpoint, open_link=self._broker.local_link)
        self._worker = WorkerService(
            url=self.url, cluster=self.cluster, secret=self._secret, make_link=link, hosted=True, **arguments
        )
        await self._worker.start(timeout)

    @property
    def employs(self) -> bool:
        """Whether the worker is there."""
        return self._worker is not None and not self._worker.has_finished

    async def dismiss(self) -> None:
        """Let the worker hand back what has not begun, finish what has, and end."""
        if self._worker is not None:
            await self._worker.close(drain=True)

    async def close(self) -> None:
        """End the worker, while it can still say goodbye, and the scheduler. May be called twice."""
        if self._worker is not None:
            await self._worker.close(drain=False)
        await super().close()


def service_for(orders: Mapping[str, Any]) -> HostingScheduler:
    """A scheduler that is what the orders say; it has not begun."""
    return HostingScheduler(**settings_of(orders))


async def start(orders: dict[str, Any]) -> tuple[Service, dict[str, Any]]:
    """Begin the scheduler and the worker; the parent needs the address."""
    worker = orders.pop("worker")
    service = cast(HostingScheduler, await begin(orders, service_for))
    try:
        await service.employ(**worker)
    except BaseException:
        await service.close()
        raise
    return service, {"url": service.url}


async def obey(service: Service, order: dict[str, Any]) -> dict[str, Any]:
    """Let the worker go, if that is the order; tell whether it is there."""
    hosting = cast(HostingScheduler, service)
    if order.get("drain"):
        await hosting.dismiss()
    return {"employs": hosting.employs}


def main() -> None:
    """Serve until the parent ends or says so."""
    serve_parent(start, obey)
