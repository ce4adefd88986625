"""Data on its way between real processes, by each of the four ways; the answer is one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from futurebroker import Client, LocalCluster

MiB = 2**20
SIZE = 9 * MiB + 13

WAYS = {
    "mapped": "map,direct,bulk,relay",
    "connected": "direct,bulk,relay",
    "by a second connection": "bulk,relay",
    "by the scheduler": "relay",
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Workers and clients that may use only this way, or what comes after it."""
    monkeypatch.setenv("FUTUREBROKER_DATA_WAYS", WAYS[request.param])
    monkeypatch.setenv("FUTUREBROKER_DATA_ADDRESS", "127.0.0.1")
    return str(request.param)


@pytest.fixture
def client(way: str) -> Iterator[Client]:
    """Of a cluster of two workers."""
    with LocalCluster(n_workers=2, executors_per_worker=1) as cluster, cluster.get_client() as client:
        yield client


def make(number: int, nbytes: int = SIZE) -> Any:
    """An array that is different everywhere."""
    return np.arange(number, number + nbytes, dtype=np.uint32).astype(np.uint8)


def summed(*arrays: Any) -> int:
    """What can be told of arrays without sending them back."""
    return sum(int(array.sum()) for array in arrays)


EXPECTED = [int(make(number).sum()) for number in range(2)]


def names(client: Client) -> list[str]:
    """The ids of the workers."""
    return sorted(client.scheduler_info()["workers"])


def sent_bytes(client: Client) -> tuple[int, int]:
    """What workers sent directly and by second connections to the broker, as of their last heartbeats."""
    metrics = [worker["metrics"] for worker in client.scheduler_info()["workers"].values()]
    return sum(one["direct_sent"] for one in metrics), sum(one["bulk_sent"] for one in metrics)


def test_results_of_two_workers_come_together_in_a_task_and_in_the_client(client: Client, way: str) -> None:
    """The inputs of one task lie on both workers."""
    first, second = names(client)
    arrays = [client.submit(make, i, workers=[worker]) for i, worker in enumerate((first, second))]
    assert client.submit(summed, *arrays, workers=[second]).result() == sum(EXPECTED)
    results = client.gather(arrays)
    assert [int(result.sum()) for result in results] == EXPECTED
    results[0][0] = 77  # what arrives is the client's own
    assert client.submit(summed, arrays[0]).result() == EXPECTED[0]


def test_scattered_data_arrives_and_is_broadcast(client: Client, way: str) -> None:
    """From the client to one worker, and from there to the other."""
    array = make(0)
    one = client.scatter(array)
    assert client.submit(summed, one).result() == EXPECTED[0]
    everywhere = client.scatter(make(1), broadcast=True)
    while len(client.who_has(everywhere)[everywhere.key]) < 2:
        pass
    for worker in names(client):
        assert client.submit(summed, everywhere, workers=[worker], key=f"on-{worker}").result() == EXPECTED[1]
    named = client.scatter({"x": array}, workers=[names(client)[1]], hash=True)
    client.gather(named)
    assert client.who_has("x")["x"] == [names(client)[1]]


def test_copies_are_made_on_request_and_loads_evened_out(client: Client, way: str) -> None:
    """Both return when it is done, and nothing that is wanted is lost on the way."""
    first, second = names(client)
    arrays = [client.submit(make, i, workers=[first], key=f"array-{i}") for i in range(2)]
    client.replicate(arrays[:1])
    assert set(client.who_has(arrays[0])[arrays[0].key]) == {first, second}
    client.replicate(arrays[0], n=1)  # there are enough already
    more = [client.submit(make, i, MiB, workers=[first], key=f"more-{i}") for i in range(8)]
    client.rebalance(more)
    held = {worker: [key for key in keys if key.startswith("more")] for worker, keys in client.has_what().items()}
    assert sorted(map(len, held.values())) == [4, 4]
    assert sorted(key for keys in held.values() for key in keys) == sorted(future.key for future in more)
    expected = [int(make(i, MiB).sum()) for i in range(8)]
    assert [int(array.sum()) for array in client.gather(more)] == expected
    assert client.gather(client.map(summed, more)) == expected


def test_the_way_that_is_allowed_is_the_one_that_is_taken(client: Client, way: str) -> None:
    """Or these tests would show nothing."""
    first, second = names(client)
    array = client.submit(make, 0, workers=[first])
    assert client.submit(summed, array, workers=[second]).result() == EXPECTED[0]
    int(array.result().sum())
    expected = [2 * SIZE if way == one else 0 for one in ("connected", "by a second connection")]
    sent = sent_bytes(client)
    while any(one < least for one, least in zip(sent, expected)):
        sent = sent_bytes(client)
    assert [one > 0 for one in sent] == [least > 0 for least in expected]
    (served,) = {bool(worker["data"]) for worker in client.scheduler_info()["workers"].values()}
    assert served == (way in ("mapped", "connected"))


def test_threads_that_want_the_same_result_share_one_transfer(client: Client, way: str) -> None:
    """Eight threads that fetch the same array would take eight times the memory."""
    array = client.submit(make, 0)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(array.result())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len({id(result) for result in results}) == 1
    assert int(results[0].sum()) == EXPECTED[0]


def test_an_asynchronous_client_fetches_and_scatters_the_same_ways(way: str) -> None:
    """Without holding up its loop."""

    async def scenario() -> None:
        async with (
            LocalCluster(n_workers=2, executors_per_worker=1, asynchronous=True) as cluster,
            cluster.get_client() as client,
        ):
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.001)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            scattered = await client.scatter(make(0))
            made = client.submit(make, 1)
            assert await client.submit(summed, scattered, made) == sum(EXPECTED)
            assert int((await made).sum()) == EXPECTED[1]
            await client.replicate([made])
            assert len((await client.who_has(made))[made.key]) == 2
            assert ticks > 0
            ticking.cancel()

    asyncio.run(scenario())
