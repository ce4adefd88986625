"""A scheduler with a journal that is told to end: what it does is written, and what it can't write it doesn't do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.scheduler.durability import Durability
from futurebroker.scheduler.durable import DurableScheduler, Storage
from futurebroker.states import TaskState
from tests.unit.scheduler.served import SECRET, World


class DurableWorld(World):
    """A world whose scheduler keeps a journal."""

    async def start(self) -> None:
        """Begin with an empty journal."""
        self.service: Any = DurableScheduler(cluster="c", secret=SECRET, broker_url=self.url, **self.settings)
        await self.service.start()


def test_what_comes_while_it_ends_is_left_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task done after the journal's last row would be done again, and stand in the history twice."""
    entered, go_on = asyncio.Event(), asyncio.Event()
    close = Durability.close

    async def slowly(durability: Durability) -> None:
        entered.set()
        await go_on.wait()
        await close(durability)

    async def scenario() -> None:
        world = DurableWorld(storage=Storage("process", f"sqlite:///{tmp_path / 'j.db'}"))
        await world.start()
        client, worker = await world.client(), await world.worker()
        worker.works = False
        client.submit("x")
        (run,) = await worker.told(m.Run)
        monkeypatch.setattr(Durability, "close", slowly)
        closing = asyncio.create_task(world.service.close())
        await entered.wait()
        worker.member.send(m.Finished("x", run.attempt, 1, 1, b"v"))
        worker.member.flush()
        while not world.service._endpoint.rejected["deaf"]:
            await asyncio.sleep(0)
        assert world.service.machine.state.tasks["x"].state is TaskState.PROCESSING
        go_on.set()
        await closing
        monkeypatch.setattr(Durability, "close", close)
        await world.end()

    asyncio.run(scenario())
