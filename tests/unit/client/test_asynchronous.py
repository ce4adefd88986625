"""The same client in asyncio: what waits is awaited, and the loop goes on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from futurebroker.client.client import Client
from futurebroker.client.progress import progress
from futurebroker.client.waiting import as_completed, wait
from futurebroker.exceptions import CancelledError, ClientClosedError, NoSchedulerError
from futurebroker.protocol import messages as m
from futurebroker.protocol.serialize import dump_failure, dumps
from tests.unit.client.scripted import SECRET, ScriptedScheduler, finish_at_once


def run(work: Any) -> Any:
    """Run a coroutine that must not take long."""

    async def within() -> Any:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(within())


def asynchronous(scheduler: ScriptedScheduler) -> Client:
    return Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET, asynchronous=True)


def test_every_method_that_waits_is_awaited(scheduler: ScriptedScheduler) -> None:
    """The same names, the same results."""
    scheduler.script[m.Submit] = finish_at_once
    scheduler.script[m.Ask] = lambda s, ask: s.say(m.Answer(ask.number, {"w": 2}))
    scheduler.script[m.RunOnWorkers] = lambda s, call: s.say(m.RanOnWorkers(call.number, {"w": (dumps(5), None)}))
    scheduler.script[m.PutValue] = lambda s, put: s.say(m.KeyFinished(put.key, put.value, None))

    async def work() -> None:
        async with asynchronous(scheduler) as client:
            future = client.submit(len, "x")
            assert await future == await future.result() == future.key
            assert await future.exception() is None
            assert await future.traceback() is None
            futures = client.map(len, "abc")
            assert await client.gather(futures) == [future.key for future in futures]
            assert [one async for one in as_completed(futures)] == futures
            pairs = [pair async for pair in as_completed(futures, with_results=True)]
            assert [result for _, result in pairs] == [future.key for future in futures]
            assert (await wait(futures)).done == set(futures)
            assert await progress(futures) is None
            assert await client.nthreads() == {"w": 2}
            assert await client.run(len, "x") == {"w": 5}
            assert await (await client.scatter(5)) == 5
            assert await client.retry(futures) is None
            assert await client.cancel(futures) is None
            assert client.gather(future, asynchronous=False) == future.key
        with pytest.raises(ClientClosedError):
            client.submit(len, "x")

    run(work())


def test_a_client_may_be_awaited(scheduler: ScriptedScheduler) -> None:
    """And used before that only to say so."""

    async def work() -> None:
        client = asynchronous(scheduler)
        with pytest.raises(ClientClosedError, match="await"):
            client.submit(len, "x")
        assert await client is client
        await client.close()

    run(work())
    with pytest.raises(TypeError, match="async with"), asynchronous(scheduler):
        pass


def test_connecting_in_vain_is_an_error() -> None:
    """As in a plain program."""

    async def work() -> None:
        with pytest.raises(NoSchedulerError):
            await Client("memory://nobody", secret=SECRET, timeout=0.1, asynchronous=True)

    run(work())


def test_the_loop_goes_on_while_a_result_is_awaited(scheduler: ScriptedScheduler) -> None:
    """A blocked loop is a stopped program."""

    async def work() -> None:
        async with asynchronous(scheduler) as client:
            future = client.submit(len, "x")
            waiting = asyncio.ensure_future(future.result())
            await asyncio.sleep(0)
            assert not waiting.done()
            scheduler.say(m.KeyFinished(future.key, dumps(1), None, "int"))
            assert await waiting == 1

    run(work())


def test_many_futures_may_be_awaited_one_by_one(scheduler: ScriptedScheduler) -> None:
    """Each with a waiter of its own."""
    scheduler.script[m.Submit] = finish_at_once

    async def work() -> None:
        async with asynchronous(scheduler) as client:
            futures = client.map(len, ["x"] * 500)
            assert await asyncio.gather(*futures) == [future.key for future in futures]

    run(work())


def test_errors_and_cancellations_reach_who_awaits(scheduler: ScriptedScheduler) -> None:
    """Our CancelledError is not asyncio's: the awaiting task isn't cancelled."""

    async def work() -> None:
        async with asynchronous(scheduler) as client:
            failing, cancelled, slow = client.map(len, "abc")
            scheduler.say(m.KeyErred(failing.key, dump_failure(ZeroDivisionError("no"), failing.key, "w")))
            with pytest.raises(ZeroDivisionError):
                await failing
            cancelled.cancel()
            with pytest.raises(CancelledError):
                await cancelled
            with pytest.raises(TimeoutError):
                await slow.result(0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(slow.result(), 0.01)
            assert slow._state.waiters is None

    run(work())


def test_a_future_of_a_plain_client_may_be_awaited(scheduler: ScriptedScheduler, client: Client) -> None:
    """In any loop of any thread."""
    scheduler.script[m.Submit] = finish_at_once
    got: list[str] = []

    async def work() -> None:
        got.append(await client.submit(len, "x"))

    threads = [threading.Thread(target=run, args=(work(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 3


def test_a_plain_client_blocks_inside_a_loop(scheduler: ScriptedScheduler, client: Client) -> None:
    """Which is what a plain call says."""
    scheduler.script[m.Submit] = finish_at_once

    async def work() -> str:
        return str(client.submit(len, "x", key="k").result())

    assert run(work()) == "k"
