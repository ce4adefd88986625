"""Work for the database in a thread beside the loop, one piece after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from futurebroker.processes import apart


class Aside:
    """What has a thread of its own for its database. Belongs to the loop that it is made on."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, f"futurebroker-{name}")
        self._closed = False

    def _run(self, work: Callable[[], Any], done: Callable[[Future[Any]], None]) -> None:
        """Have ``work`` done in the thread after all before it, then call ``done`` on the loop."""

        def came_back(future: Future[Any]) -> None:
            if not future.cancelled():
                self._loop.call_soon_threadsafe(self._came_back, done, future)

        if not self._closed:
            self._thread.submit(work).add_done_callback(came_back)

    def _came_back(self, done: Callable[[Future[Any]], None], future: Future[Any]) -> None:
        if not self._closed:
            done(future)

    async def _finish(self) -> None:
        """Wait for what was begun; the rest isn't."""
        await apart(partial(self._thread.shutdown, wait=True, cancel_futures=True))
