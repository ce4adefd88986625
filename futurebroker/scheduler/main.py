"""The process of a local cluster's scheduler; `futurebroker.processes` says how it gets its orders."""

from __future__ import annotations

from typing import Any

from futurebroker.processes import Service, serve_parent
from futurebroker.scheduler.service import SchedulerService


async def start(orders: dict[str, Any]) -> tuple[Service, dict[str, Any]]:
    """Begin the scheduler; its parent needs the address."""
    service = SchedulerService(secret=orders.pop("secret").encode(), **orders)
    await service.start()
    return service, {"url": service.url}


def main() -> None:
    """Serve until the parent ends or says so."""
    serve_parent(start)
