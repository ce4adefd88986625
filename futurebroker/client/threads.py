"""The two threads a client may have: one that runs its event loop, one that runs callbacks."""

from __future__ import annotations

import asyncio
import logging
import selectors
import threading
from collections.abc import Callable, Coroutine, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

logger = logging.getLogger("futurebroker.client")

Result = TypeVar("Result")


class _TurnSelector(selectors.DefaultSelector):
    """Lets other threads have the loop's turn while it sleeps.

    The loop's thread holds `turn` except while it waits for events. Who takes it meanwhile may use what belongs to the
    loop as if it ran there, as long as the loop need not wake for it: so a user's thread can send what it has by
    itself, without a change of threads. It could receive what it waits for as well; but Ctrl-C interrupts the main
    thread anywhere, and in the middle of receiving that would lose what was already acknowledged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turn = threading.Lock()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        self.turn.release()
        try:
            return super().select(timeout)
        finally:
            self.turn.acquire()


class LoopThread:
    """An event loop in a thread: its own, or that of a cluster in the same process, which is left running.

    Both are daemons: the program may end without closing its clients, and is then closed by `atexit`.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._own = loop is None
        self._thread: threading.Thread | None = None
        #: taken without waiting by a thread that uses the loop's things while it sleeps; None for a shared loop
        self.turn: threading.Lock | None = None
        if loop is not None:
            self.loop = loop
        else:
            selector = _TurnSelector()
            self.turn = selector.turn
            self.loop = asyncio.SelectorEventLoop(selector)
            # In debug mode (python -X dev) it would refuse a thread that has the turn.
            self.loop.set_debug(False)
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        assert self.turn is not None
        with self.turn:
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
