"""The process of a local cluster's worker; `futurebroker.processes` says how it gets its orders."""

from __future__ import annotations

from typing import Any, cast

from futurebroker.processes import Service, serve_parent
from futurebroker.worker.service import WorkerService


async def start(orders: dict[str, Any]) -> tuple[Service, dict[str, Any]]:
    """Begin the worker; it reports once the scheduler has accepted it."""
    timeout = orders.pop("timeout")
    service = WorkerService(secret=orders.pop("secret").encode(), **orders)
    await service.start(timeout)
    return service, {}


async def obey(service: Service, order: dict[str, Any]) -> None:
    """Hand back what has not begun and finish what has; there is no other order."""
    await cast(WorkerService, service).close(drain=True)


def main() -> None:
    """Serve until the parent ends or says so."""
    serve_parent(start, obey)
