"""What tests of links share: an embedded broker on a thread of its own, and an owner that records what a link tells."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from futurebroker.transport.base import Link, Queue
from futurebroker.transport.registry import open_link

SECRET = b"sixteen bytes or more"


@contextmanager
def embedded_broker(heartbeat: int = 20, memory_limit: int = 1 << 29) -> Iterator[EmbeddedBroker]:
    """A broker that blocking clients of the calling thread can use."""
    broker = EmbeddedBroker(SECRET, heartbeat=heartbeat, memory_limit=memory_limit)
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await broker.start()
        started.set()
        await stop.wait()
        await broker.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="embedded broker")
    thread.start()
    try:
        assert started.wait(5)
        yield broker
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


@asynccontextmanager
async def broker_here(**options: Any) -> AsyncIterator[EmbeddedBroker]:
    """A broker on the running loop, as the scheduler has it."""
    broker = EmbeddedBroker(SECRET, **options)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine on a loop of its own, for at most 50 seconds."""
    asyncio.run(asyncio.wait_for(test(), 50))


class Owner:
    """Owns a link on the running asyncio loop: watches its socket, ticks it, and keeps what it tells."""

    def __init__(self, link: Link, *, acks: bool = True) -> None:
        self.link = link
        self.received_bodies: list[bytes] = []
        self.queues: list[str] = []
        self.tags: list[int] = []
        self.returned_names: list[str] = []
        self.blocks: list[bool] = []
        self.confirms = 0
        self.ends: list[Exception | None] = []
        self._acks = acks
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._fileno = link.fileno()
        self._is_writing = False
        if self._fileno is not None:
            self._loop.add_reader(self._fileno, self._on_readable)
        link.start(self, self._loop.call_soon_threadsafe)
        self._timer = self._loop.call_soon(self._tick)

    # -- LinkEvents --------------------------------------------------------------------------------------------------

    def received(self, queue: str, body: bytes, tag: int) -> None:
        self.queues.append(queue)
        self.received_bodies.append(body)
        self.tags.append(tag)
        if tag and self._acks:
            self.link.ack(tag)
        self._changed.set()

    def returned(self, destination: str) -> None:
        self.returned_names.append(destination)
        self._changed.set()

    def confirmed(self) -> None:
        self.confirms += 1
        self._changed.set()

    def blocked(self, is_blocked: bool) -> None:
        self.blocks.append(is_blocked)
        self._changed.set()

    def turn(self, call: Callable[[], None]) -> None:
        call()

    def disconnected(self, error: Exception | None) -> None:
        self.ends.append(error)
        self._timer.cancel()
        if self._fileno is not None:
            self._loop.remove_reader(self._fileno)
            self._loop.remove_writer(self._fileno)
            self._fileno = None
        self._changed.set()

    # -- for tests ---------------------------------------------------------------------------------------------------

    async def until(self, is_true: Callable[[Owner], object], timeout: float = 20) -> None:
        """Wait until what was told makes ``is_true`` so."""
        async with asyncio.timeout(timeout):
            while not is_true(self):
                self._changed.clear()
                await self._changed.wait()

    def flush(self) -> None:
        """Flush the link, and go on writing when its socket has room again."""
        self.link.flush()
        self._watch()

    def poke(self) -> None:
        """Let `until` look again."""
        self._changed.set()

    def _on_readable(self) -> None:
        self.link.on_readable()
        self.flush()

    def _on_writable(self) -> None:
        self.link.on_writable()
        self._watch()
        self._changed.set()

    def _watch(self) -> None:
        wanted = self.link.wants_write()
        if self._fileno is not None and wanted is not self._is_writing:
            self._is_writing = wanted
            if wanted:
                self._loop.add_writer(self._fileno, self._on_writable)
            else:
                self._loop.remove_writer(self._fileno)

    def _tick(self) -> None:
        due = self.link.tick(self._loop.time())
        self._watch()
        if not self.ends:
            self._timer = self._loop.call_at(due, self._tick)


async def connect(url: str, queues: Sequence[Queue] = (), *, secret: bytes = SECRET, acks: bool = True) -> Owner:
    """A started link to ``url``, opened in a thread as the real owners do."""
    link = await asyncio.to_thread(open_link, url, queues, secret=secret, timeout=10, name="test")
    return Owner(link, acks=acks)
