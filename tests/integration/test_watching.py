"""Names that programs for dask.distributed use: the task stream and metadata of a block, the default client, sync."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

import futurebroker
from futurebroker import (
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    default_client,
    get_task_metadata,
    get_task_stream,
)
from futurebroker.exceptions import ExecutorDiedError, WorkerLostError


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A worker with one executor."""
    with LocalCluster(executors_per_worker=1) as cluster:
        yield cluster


def fail() -> None:
    raise ValueError("no")


def test_the_stream_of_a_block_has_the_tasks_in_it(client: Client) -> None:
    """And no others; of the current client, or of the one that is given."""
    client.submit(pow, 2, 1, key="before").result(30)
    with get_task_stream() as stream:
        client.submit(pow, 2, 2, key="within").result(30)
    client.submit(pow, 2, 3, key="after").result(30)
    assert [end["key"] for end in stream.data] == ["within"]
    with get_task_stream(client) as given:
        client.submit(pow, 2, 4, key="given").result(30)
    assert [end["key"] for end in given] == ["given"]


def test_the_metadata_of_a_block_says_what_became_of_its_tasks(client: Client) -> None:
    """Of those that failed as well."""
    with get_task_metadata() as tasks:
        assert tasks.metadata is None
        client.submit(pow, 2, 2, key="well").result(30)
        assert client.submit(fail, key="badly").exception(30) is not None
    assert tasks.state == {"well": "memory", "badly": "erred"}
    assert tasks.metadata is not None
    well = tasks.metadata["well"]
    assert well["stop"] >= well["start"]
    assert (well["type"], well["worker"]) == ("int", *client.nthreads())


def test_both_work_in_asyncio(cluster: LocalCluster) -> None:
    """And say so when they are entered the wrong way."""

    async def inside() -> None:
        async with Client(cluster, asynchronous=True) as client:
            async with get_task_stream(client) as stream, get_task_metadata(client) as tasks:
                await client.submit(pow, 2, 2, key="here")
            assert [end["key"] for end in stream] == ["here"]
            assert tasks.state == {"here": "memory"}
            with pytest.raises(TypeError, match="async with"), get_task_metadata(client):
                pass

    asyncio.run(inside())


def test_the_default_client_is_the_current_one(client: Client) -> None:
    """Unless another is given; without one it is an error that says what to do."""
    assert default_client() is client
    assert default_client(client) is client
    client.close()
    with pytest.raises(ValueError, match="make one with Client"):
        default_client()
    with pytest.raises(ValueError, match="make one with Client"):
        get_task_stream()


def kill_oneself() -> None:
    os._exit(3)


def test_a_task_that_ends_its_executor_is_a_killed_worker() -> None:
    """By the name that programs catch, with the fields that they read."""
    with Client(executors_per_worker=1) as client, pytest.raises(KilledWorker) as caught:
        client.submit(kill_oneself, key="deadly").result(60)
    assert isinstance(caught.value, ExecutorDiedError)
    assert (caught.value.task, caught.value.last_worker) == ("deadly", "local-1")
    assert issubclass(WorkerLostError, KilledWorker)
    assert futurebroker.KilledWorker is KilledWorker


async def add_up(client: Client, *numbers: int, wrong: bool = False) -> int:
    assert client.asynchronous
    futures = client.map(abs, numbers)
    if wrong:
        raise ValueError("wrong")
    first: int = await futures[0]
    gathered: list[int] = await client.gather(futures)
    assert gathered[0] == first
    return sum(gathered)


def test_sync_runs_a_coroutine_in_which_the_client_is_asynchronous(client: Client) -> None:
    """As libraries do that have one program for both kinds of clients."""
    assert client.sync(add_up, client, -1, -2) == 3
    assert not client.asynchronous
    with pytest.raises(ValueError, match="wrong"):
        client.sync(add_up, client, 1, wrong=True)
    with pytest.raises(TimeoutError):
        client.sync(asyncio.sleep, 60, callback_timeout=0.01)

    async def in_a_notebook() -> Any:
        return client.sync(add_up, client, 5), await client.sync(add_up, client, 6, asynchronous=True)

    assert asyncio.run(in_a_notebook()) == (5, 6)


def test_sync_of_an_asynchronous_client_is_awaited(cluster: LocalCluster) -> None:
    """It has a loop already."""

    async def inside() -> int:
        async with Client(cluster, asynchronous=True) as client:
            total: int = await client.sync(add_up, client, -1, -2)
            assert isinstance(client.submit(abs, 1), Future)
            return total

    assert asyncio.run(inside()) == 3
