"""The process of a local cluster's scheduler; `futurebroker.processes` says how it gets its orders."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from futurebroker.exceptions import ClusterConnectionError
from futurebroker.processes import Service, serve_parent
from futurebroker.scheduler.service import SchedulerService
from futurebroker.scheduler.state import Policy


def service_for(orders: Mapping[str, Any]) -> SchedulerService:
    """A scheduler that is what the orders say; it has not begun."""
    policy = Policy(**orders.get("policy", {}))
    settings = {**orders, "policy": policy, "secret": orders["secret"].encode()}
    storage = settings.pop("storage", None)
    if storage is None:
        return SchedulerService(**settings)
    # Found by name, because a database's libraries take half a second to load and most local clusters need none.
    durable = importlib.import_module("futurebroker.scheduler.durable")
    service: SchedulerService = durable.DurableScheduler(durable.Storage(**storage), **settings)
    return service


async def begin(orders: Mapping[str, Any]) -> SchedulerService:
    """Begin a scheduler.

    Raises:
        ClusterConnectionError: its port is taken, or its broker can't be reached.
    """
    service = service_for(orders)
    try:
        await service.start()
    except ClusterConnectionError:
        raise
    except OSError as error:
        place = f"{orders['host']}:{orders['port']}"
        raise ClusterConnectionError(
            f"cannot listen on {place}: {error.strerror or error}; end what uses it, or choose another with --port"
        ) from error
    return service


async def start(orders: dict[str, Any]) -> tuple[Service, dict[str, Any]]:
    """Begin the scheduler; its parent needs the address."""
    service = await begin(orders)
    return service, {"url": service.url}


def main() -> None:
    """Serve until the parent ends or says so."""
    serve_parent(start)
