"""The two threads a client may have: one that runs its event loop, one that runs callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from futurebroker.polling import TurnPoller, new_turn_loop

logger = logging.getLogger("futurebroker.client")

Result = TypeVar("Result")


class LoopThread:
    """An event loop in a thread: its own, or that of a cluster in the same process, which is left running.

    Both are daemons: the program may end without closing its clients, and is then closed by `atexit`.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._own = loop is None
        self._thread: threading.Thread | None = None
        #: whose turn a thread may have that uses the loop's things while it sleeps; None where there is none, and for a
        #: shared loop
        self.poller: TurnPoller | None = None
        if loop is not None:
            self.loop = loop
        else:
            ours = new_turn_loop()
            self.loop = ours or asyncio.new_event_loop()
            self.poller = None if ours is None else ours.poller
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        with contextlib.nullcontext() if self.poller is None else self.poller.turn:
            self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine that runs in the loop; blocks the calling thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def run_async(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """As `run`, from another event loop, which goes on meanwhile."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def stop(self) -> None:
        """End the thread and close the loop, if they are our own. May be called twice, not from the thread itself."""
        if self._thread is None or self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class CallbackThread:
    """Runs callbacks one after another; starts with the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Have the thread run; to be called before `put`, from a thread that may block."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def put(self, call: Callable[[], object]) -> None:
        """Run ``call`` after all that was put before."""
        self._calls.put(call)

    def stop(self) -> None:
        """Run what was put, then end. Waits for that, unless a callback is what calls this."""
        with self._starting:
            thread = self._thread
        if thread is not None:
            self._calls.put(None)
            if thread is not threading.current_thread():
                thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                logger.exception("a callback of a future raised")
            # Not to keep a future alive until the next callback.
            del call


class CallWhenSettled:
    """Queues a call once a number of keys is settled."""

    __slots__ = ("_call", "_count", "_thread")

    def __init__(self, count: int, call: Callable[[], object], thread: CallbackThread) -> None:
        self._count = count
        self._call = call
        self._thread = thread

    def ready(self, settled: Sequence[Any]) -> None:
        """See `Waiter.ready`."""
        self._count -= len(settled)
        if self._count == 0:
            self._thread.put(self._call)
