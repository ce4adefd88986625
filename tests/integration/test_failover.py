"""A cluster that is given a list of brokers goes on at the next when the one it uses dies."""

from __future__ import annotations

import asyncio
from typing import Any

from futurebroker import Client
from futurebroker.scheduler.service import SchedulerService
from futurebroker.worker.service import WorkerService
from tests.integration.brokers import SECRET, broker_here, run

PLACE: dict[str, Any] = {"cluster": "failover", "secret": SECRET}


def test_everybody_meets_at_the_next_broker_of_the_list() -> None:
    """What was submitted meanwhile is done there; nobody has to be told."""

    async def scenario() -> None:
        async with broker_here() as first, broker_here() as second:
            urls = f"{first.url};{second.url}"
            scheduler = SchedulerService(broker_url=urls, **PLACE)
            await scheduler.start()
            worker = WorkerService(url=urls, executors=1, processes=False, **PLACE)
            await worker.start()
            client = await Client(urls, asynchronous=True, cluster="failover", secret=SECRET.decode())
            try:
                assert await client.submit(abs, -1) == 1
                await first.close()
                futures = client.map(abs, range(-200, 0))
                async with asyncio.timeout(30):
                    assert await client.gather(futures) == list(range(200, 0, -1))
                assert list(scheduler.machine.state.workers) == [worker.id]
            finally:
                await client.close()
                await worker.close()
                await scheduler.close()

    run(scenario)


def test_who_finds_no_scheduler_at_one_broker_asks_at_the_next() -> None:
    """The first is back, and the scheduler stayed where it went meanwhile."""

    async def scenario() -> None:
        async with broker_here() as first, broker_here() as second:
            scheduler = SchedulerService(broker_url=second.url, **PLACE)
            await scheduler.start()
            worker = WorkerService(url=f"{first.url};{second.url}", executors=1, processes=False, **PLACE)
            await worker.start()
            try:
                assert list(scheduler.machine.state.workers) == [worker.id]
            finally:
                await worker.close()
                await scheduler.close()

    run(scenario)
