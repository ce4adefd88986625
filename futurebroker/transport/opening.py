"""Opening a link without stopping an event loop: it may block, so it happens in a thread that ends with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from futurebroker.transport.base import Link, Queue
from futurebroker.transport.registry import open_link


async def open_in_thread(url: str, queues: Sequence[Queue], *, secret: bytes, timeout: float, name: str) -> Link:
    """As `registry.open_link`. Who stops waiting need not care: a link that opens after that is closed."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Link] = loop.create_future()

    def settle(link: Link | None, error: BaseException | None) -> None:
        if done.done():
            if link is not None:
                link.close()
        elif link is not None:
            done.set_result(link)
        else:
            done.set_exception(error or ConnectionError(url))

    def post(call: Callable[..., None], *arguments: object) -> bool:
        try:
            loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop has ended
            return False
        return True

    def work() -> None:
        try:
            link = open_link(url, queues, secret=secret, timeout=timeout, name=name)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the link was asked for
            post(settle, None, error)
        else:
            if not post(settle, link, None):
                link.close()

    threading.Thread(target=work, name=f"futurebroker-open-{name}", daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        # it may have come in the very turn in which we were told to stop
        if done.done() and not done.cancelled() and done.exception() is None:
            done.result().close()
        raise
