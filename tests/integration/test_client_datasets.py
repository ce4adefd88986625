"""Datasets as programs and tasks use them, in one process and in several."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from futurebroker import Client, get_client
from futurebroker.exceptions import CancelledError, DatasetError, DuplicateDatasetError, UnknownDatasetError

PATIENCE = 40


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """With a cluster of its own, of real processes."""
    with Client(executors_per_worker=1) as client:
        yield client


def publish_in_task(name: str) -> tuple[str, ...]:
    client = get_client()
    client.publish_dataset(client.submit(pow, 2, 5), name=name)
    return tuple(client.list_datasets())


async def publish_in_coroutine(name: str) -> int:
    client = get_client()
    await client.publish_dataset(client.submit(pow, 2, 6), name=name)
    return int(await (await client.get_dataset(name)))


def test_the_mapping_is_that_of_all_clients(client: Client) -> None:
    """A mutable one, which like dask's overwrites nothing."""
    datasets = client.datasets
    datasets["a"] = [client.submit(pow, 2, 3)]
    datasets.update(b=1, c=None)
    assert (sorted(datasets), len(datasets), "a" in datasets, "" in datasets) == (["a", "b", "c"], 3, True, False)
    assert client.gather(datasets["a"]) == [8]
    assert (datasets.get("c", 2), datasets.get("d", 2), datasets.pop("b")) == (None, 2, 1)
    with pytest.raises(KeyError, match="published already"):
        datasets["a"] = 2
    datasets.clear()
    with pytest.raises(KeyError, match="no dataset is published"):
        del datasets["a"]


def test_what_tasks_publish_stays(client: Client) -> None:
    """Also what is behind its futures, which the task no longer holds."""
    assert client.submit(publish_in_task, "task").result(PATIENCE) == ("task",)
    assert client.get_dataset("task").result(PATIENCE) == 32
    assert client.submit(publish_in_coroutine, "coroutine").result(PATIENCE) == 64
    client.datasets.clear()


def test_asynchronous_clients_await_everything() -> None:
    """In one process; what can't be awaited says so."""

    async def scenario() -> None:
        async with Client(asynchronous=True, processes=False) as client:
            future = client.submit(pow, 2, 4)
            await client.publish_dataset(one=future, large=[future, b"z" * 100_000])
            assert await client.list_datasets() == ("large", "one")
            assert [name async for name in client.datasets] == ["large", "one"]
            assert await (await client.get_dataset("one")) == 16
            again, plain = await client.get_dataset("large")
            assert (await again, len(plain)) == (16, 100_000)
            assert (await client.dataset_info("large"))["type"] == "list"
            assert list(await client.dataset_info()) == ["large", "one"]
            with pytest.raises(TypeError, match="await client.get_dataset"):
                client.datasets["one"]
            await client.unpublish_dataset("one")
            with pytest.raises(UnknownDatasetError):
                await client.unpublish_dataset("one")
            assert await client.get_dataset("one", default=5) == 5

    asyncio.run(scenario())


def test_what_can_not_be_is_said(client: Client) -> None:
    """Before anything is published."""
    with pytest.raises(ValueError, match="give the value first"):
        client.publish_dataset(name="x")
    with pytest.raises(ValueError, match="needs a name"):
        client.publish_dataset(1)
    with pytest.raises(ValueError, match="given twice"):
        client.publish_dataset(1, name="x", x=2)
    with pytest.raises(ValueError, match="is no name for a dataset"):
        client.publish_dataset(1, name="../x")
    with pytest.raises(ValueError, match="'database' or 'store'"):
        client.publish_dataset(1, name="x", persist="disk")
    with pytest.raises(DatasetError, match="keeps no journal"):
        client.publish_dataset(1, name="x", persist="store")
    gone = client.submit(pow, 2, 3)
    gone.cancel()
    with pytest.raises((CancelledError, DatasetError)):
        client.publish_dataset(x=[gone])
    with pytest.raises(UnknownDatasetError):
        client.get_dataset("../x")
    client.publish_dataset(x=1)
    with pytest.raises(DuplicateDatasetError):
        client.publish_dataset(y=1, x=2)
    assert client.list_datasets() == ("x",)
    client.publish_dataset(1, 2, name="x", override=True)
    assert client.datasets.pop("x") == (1, 2)
