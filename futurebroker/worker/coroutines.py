"""The event loop on which an executor runs ``async def`` tasks: one thread, made when the first such task comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


class CoroutineRunner:
    """Runs coroutines for threads that wait for them; they may overlap on the one loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What ``coroutine`` returns; what it raises is raised here."""
        future = asyncio.run_coroutine_threadsafe(_contain(coroutine), self._running_loop())
        value, error = future.result()
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Stop the loop, if one was made, and wait for its thread."""
        with self._lock:
            if self._loop is not None and self._thread is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
                self._loop = self._thread = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="coroutines", daemon=True)
                self._thread.start()
            return self._loop


async def _contain(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """The outcome as a value: asyncio would let SystemExit and KeyboardInterrupt stop the loop."""
    try:
        return await coroutine, None
    except BaseException as error:  # noqa: BLE001 - see above
        return None, error
