"""The process of a local cluster's scheduler; `futurebroker.processes` says how it gets its orders."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from futurebroker.exceptions import ClusterConnectionError
from futurebroker.processes import Service, serve_parent
from futurebroker.scheduler.service import SchedulerService
from futurebroker.scheduler.state import Policy


def settings_of(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the scheduler that is what the orders say, but for what survives it."""
    others = {name: value for name, value in orders.items() if name != "storage"}
    return {**others, "policy": Policy(**orders.get("policy", {})), "secret": orders["secret"].encode()}


def service_for(orders: Mapping[str, Any]) -> SchedulerService:
    """A scheduler that is what the orders say; it has not begun."""
    settings, storage = settings_of(orders), orders.get("storage")
    if storage is None:
        return SchedulerService(**settings)
    # Found by name, because a database's libraries take half a second to load and most local clusters need none.
    durable = importlib.import_module("futurebroker.scheduler.durable")
    service: SchedulerService = durable.DurableScheduler(durable.Storage(**storage), **settings)
    return service


async def begin(orders: Mapping[str, Any], make: Callable[..., SchedulerService] = service_for) -> SchedulerService:
    """Begin the scheduler that ``make`` makes of the orders.

    Raises:
        ClusterConnectionError: its port is taken, or its broker can't be reached.
    """
    service = make(orders)
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
