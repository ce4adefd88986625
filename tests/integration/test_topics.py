"""What clients tell each other: metadata, and events under topics; sync, in asyncio, and from tasks."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client, LocalCluster, get_client
from futurebroker.exceptions import FuturebrokerError, SerializationError
from tests.integration.killable import Cluster

PATIENCE = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A worker with one executor."""
    with LocalCluster(executors_per_worker=1) as cluster:
        yield cluster


def note_progress(step: int) -> Any:
    client = get_client()
    client.set_metadata(["progress", "step"], step)
    client.log_event("steps", {"step": step})
    return client.get_metadata("progress")


def test_metadata_are_shared_by_clients_and_tasks(cluster: LocalCluster, client: Client) -> None:
    """By keys, nested as in dask.distributed."""
    assert client.submit(note_progress, 3).result(PATIENCE) == {"step": 3}
    client.set_metadata("x", [1, 2.5, None, {"a": b"bytes"}])
    with Client(cluster) as other:
        assert other.get_metadata(["progress", "step"]) == 3
        assert other.get_metadata("x") == [1, 2.5, None, {"a": b"bytes"}]
        assert other.delete_metadata("x")
        assert not other.delete_metadata("x")
    with pytest.raises(KeyError, match="x"):
        client.get_metadata("x")
    assert client.get_metadata("x", default=None) is None
    assert client.get_metadata(["progress", "none"], 7) == 7


def test_what_cannot_be_metadata_is_said_at_once(client: Client) -> None:
    """Before or by the scheduler."""
    with pytest.raises(SerializationError, match="plain data"):
        client.set_metadata("x", object())
    with pytest.raises(FuturebrokerError, match="may have 262,144"):
        client.set_metadata("x", "." * 300_000)
    with pytest.raises(FuturebrokerError, match="whole numbers"):
        client.set_metadata([None], 1)


def test_metadata_are_awaited_in_asyncio(cluster: LocalCluster) -> None:
    """All of them."""

    async def inside() -> None:
        async with Client(cluster, asynchronous=True) as client:
            await client.set_metadata(["async", "x"], 1)
            assert await client.get_metadata("async") == {"x": 1}
            assert await client.delete_metadata("async")
            with pytest.raises(KeyError):
                await client.get_metadata("async")

    asyncio.run(inside())


def test_metadata_outlive_the_scheduler_and_topics_are_subscribed_again(tmp_path: Path) -> None:
    """With a journal; a client need not subscribe again."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path, stack)
        with cluster.client() as client, cluster.client() as other:
            events: queue.Queue[Any] = queue.Queue()
            client.subscribe_topic("t", events.put)
            client.set_metadata(["a", "b"], 1)
            cluster.kill(cluster.scheduler)
            cluster.start_scheduler()
            assert client.get_metadata("a") == {"b": 1}
            other.log_event("t", "after")
            assert events.get(timeout=PATIENCE)[1] == "after"


def test_a_handler_is_called_for_each_event_of_its_topic(cluster: LocalCluster, client: Client) -> None:
    """Whoever logs it, in order; coroutine functions are run, and what raises doesn't stop those that follow."""
    events: queue.Queue[Any] = queue.Queue()

    async def also(event: tuple[float, Any]) -> None:
        await asyncio.sleep(0)
        events.put(("also", event[1]))
        raise ValueError("a handler's own")

    client.subscribe_topic("steps", events.put)
    client.subscribe_topic("others", also)
    with Client(cluster) as other:
        other.submit(note_progress, 4).result(PATIENCE)
        other.log_event(["others", "unheard"], [1])
        other.log_event("others", [2])
        other.log_event("steps", 5)
        at, event = events.get(timeout=PATIENCE)
        assert event == {"step": 4}
        assert [(at, event)] == list(client.get_events("steps"))[-2:-1]
        assert events.get(timeout=PATIENCE) == ("also", [1])
        assert events.get(timeout=PATIENCE) == ("also", [2])
        assert events.get(timeout=PATIENCE)[1] == 5
        client.unsubscribe_topic("steps")
        other.log_event("steps", "unheard")
        other.log_event("others", "last")
        assert events.get(timeout=PATIENCE) == ("also", "last")
    with pytest.raises(ValueError, match="has not subscribed to 'steps'"):
        client.unsubscribe_topic("steps")


def test_what_cannot_be_subscribed_to_is_refused(client: Client) -> None:
    """And nothing of it is left."""
    with pytest.raises(TypeError, match="a handler is a function, got str"):
        client.subscribe_topic("t", "print")  # type: ignore[arg-type]
    with pytest.raises(FuturebrokerError, match="1 to 255"):
        client.subscribe_topic("", print)
    with pytest.raises(ValueError, match="has not subscribed"):
        client.unsubscribe_topic("")


def test_handlers_of_an_asynchronous_client_run_on_its_loop(cluster: LocalCluster) -> None:
    """Where what they use is not shared with another thread."""

    async def inside() -> None:
        here = threading.current_thread()
        heard: asyncio.Queue[Any] = asyncio.Queue()

        async def coroutine(event: tuple[float, Any]) -> None:
            await heard.put((threading.current_thread(), event[1]))

        async with Client(cluster, asynchronous=True) as client:
            await client.subscribe_topic("one", lambda event: heard.put_nowait((threading.current_thread(), event[1])))
            await client.subscribe_topic("two", coroutine)
            await client.log_event("one", 1)
            await client.log_event("two", 2)
            assert await asyncio.wait_for(heard.get(), PATIENCE) == (here, 1)
            assert await asyncio.wait_for(heard.get(), PATIENCE) == (here, 2)
            await client.unsubscribe_topic("one")

    asyncio.run(inside())
