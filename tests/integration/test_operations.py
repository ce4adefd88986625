"""A cluster as its operator sees it: what it sends while nothing goes on, what it logs, which secrets it keeps."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from futurebroker.protocol.messages import Heartbeat
from futurebroker.scheduler import presence
from futurebroker.scheduler import service as scheduling
from futurebroker.scheduler.service import SchedulerService
from futurebroker.transport.memory import MemoryLink
from futurebroker.types import Peer, Role
from futurebroker.worker.service import WorkerService

WORKERS = 4
#: times faster than in deployment
HASTE = 10


class Watchful(SchedulerService):
    """A scheduler that counts heartbeats, and lets others wait for them."""

    beats = 0
    changed: asyncio.Event

    def meet(self, peer: Peer, message: Any) -> None:
        super().meet(peer, message)
        if isinstance(message, Heartbeat):
            self.beats += 1
            self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until heartbeats make ``condition`` so."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def cluster() -> AsyncIterator[Watchful]:
    """A scheduler and four workers, on this loop."""
    place: dict[str, Any] = {"cluster": "c", "secret": b"known to this test"}
    url = f"memory://{secrets.token_hex(6)}"
    scheduler = Watchful(broker_url=url, heartbeat_interval=1 / HASTE, **place)
    scheduler.changed = asyncio.Event()
    await scheduler.start()
    workers = [WorkerService(url=url, executors=1, processes=False, **place) for _ in range(WORKERS)]
    try:
        await asyncio.gather(*(worker.start() for worker in workers))
        yield scheduler
    finally:
        await asyncio.gather(*(worker.close() for worker in workers))
        await scheduler.close()


def test_an_idle_cluster_of_four_workers_sends_less_than_a_message_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers are rented by the message, and a laptop's battery pays for each; ten times as fast as in deployment."""
    sent: list[str] = []
    send = MemoryLink.send

    def counted(link: MemoryLink, destination: str, body: bytes, **options: bool) -> None:
        sent.append(destination)
        send(link, destination, body, **options)

    monkeypatch.setattr(MemoryLink, "send", counted)
    monkeypatch.setattr(scheduling, "SWEEP_EVERY", 0.5 / HASTE)
    monkeypatch.setattr(presence, "IDLE_AFTER", presence.IDLE_AFTER / HASTE)
    monkeypatch.setattr(presence, "IDLE_BEAT", presence.IDLE_BEAT / HASTE)

    async def scenario() -> None:
        async with cluster() as scheduler:
            contacts = scheduler._contacts.values()
            idle = presence.IDLE_BEAT
            await scheduler.until(lambda: [one.interval for one in contacts] == [idle] * WORKERS)
            began, before, beats = scheduler._loop.time(), len(sent), scheduler.beats
            await scheduler.until(lambda: scheduler.beats == beats + 3 * WORKERS)
            messages, seconds = len(sent) - before, scheduler._loop.time() - began
            assert messages / seconds / HASTE < 1
            assert all(one.suspected_at is None for one in contacts)
            assert {one.peer.role for one in contacts} == {Role.WORKER}

    asyncio.run(scenario())
