"""The process of a local cluster's site; `futurebroker.processes` says how it gets its orders."""

from __future__ import annotations

import asyncio
from typing import Any

from futurebroker.config import load_settings
from futurebroker.processes import Service, serve_parent
from futurebroker.web.server import SiteServer


class _Served:
    """A site, as `processes` wants a service."""

    def __init__(self, server: SiteServer) -> None:
        self._server = server
        self._ended = asyncio.Event()

    async def finished(self) -> None:
        await self._ended.wait()

    async def close(self) -> None:
        self._ended.set()
        await asyncio.to_thread(self._server.close)


async def start(orders: dict[str, Any]) -> tuple[Service, dict[str, Any]]:
    """Begin the site; its parent needs the link."""
    kept = orders.get("history")
    settings = load_settings(cluster=orders["cluster"], history=kept is not None)
    server = SiteServer(
        settings,
        host=orders["host"],
        port=orders["port"],
        spare=True,
        url=orders["url"],
        secret=orders["secret"].encode(),
        history_url=kept,
    )
    server.start()
    return _Served(server), {"link": server.link}


def main() -> None:
    """Serve until the parent ends or says so."""
    serve_parent(start)
