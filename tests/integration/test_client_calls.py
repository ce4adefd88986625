"""The client with a real scheduler and real workers, inside one process for speed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import operator
import os
import random
import threading
import traceback
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from futurebroker import CancelledError, Client, LocalCluster, as_completed, fire_and_forget, wait
from futurebroker.exceptions import DuplicateKeyError, SerializationError

Pair = namedtuple("Pair", "left right")


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A cluster on one thread, with two executors."""
    with LocalCluster(processes=False, executors_per_worker=2) as cluster:
        yield cluster


def inc(x: Any) -> Any:
    return x + 1


def fails(x: int) -> int:
    return x // 0


def blocks(event: str) -> str:
    """Waits until the test lets it go; executors are threads of the same process."""
    assert EVENTS[event].wait(20)
    return event


EVENTS: dict[str, threading.Event] = {}


@pytest.fixture
def gate() -> Iterator[str]:
    """The name of an event for `blocks`; set at the end at the latest."""
    name = f"gate-{random.random()}"
    EVENTS[name] = threading.Event()
    yield name
    EVENTS.pop(name).set()


def test_calls_depend_on_calls(client: Client) -> None:
    """The main job, in small: a graph of calls gives the right number."""
    numbers = client.map(inc, range(20))
    sums = [client.submit(operator.add, a, b) for a, b in zip(numbers[::2], numbers[1::2])]
    assert client.submit(sum, sums).result(20) == sum(range(1, 21))


def test_futures_are_found_in_containers(client: Client) -> None:
    """The function sees the results in the same containers."""
    a, b = client.map(inc, [1, 2])
    shape = {"list": [a, (b,)], "pair": Pair(a, {"deep": b}), "set": {a}, "text": a.key}
    assert client.submit(lambda x: x, shape).result(20) == {
        "list": [2, (3,)],
        "pair": Pair(2, {"deep": 3}),
        "set": {2},
        "text": a.key,
    }


def test_thousands_of_results_are_gathered(client: Client) -> None:
    """In the order asked for."""
    assert client.gather(client.map(inc, range(3000))) == list(range(1, 3001))
    assert client.gather(client.map(inc, range(3000), chunksize=100)) == list(range(1, 3001))


def test_an_error_travels_to_what_depends_on_it(client: Client) -> None:
    """As the user's own exception, with the user's own line."""
    end = client.submit(inc, client.submit(inc, client.submit(fails, 1)))
    with pytest.raises(ZeroDivisionError) as caught:
        end.result(20)
    assert "in fails" in "".join(traceback.format_exception(caught.value))
    assert end.status == "error"


def test_times_to_wait_may_be_text(client: Client, gate: str) -> None:
    """As in dask.distributed; what is no time is refused before anything is waited for."""
    future = client.submit(blocks, gate)
    for wait_for in (future.result, future.exception, lambda timeout: wait([future], timeout)):
        with pytest.raises(TimeoutError, match=r"0\.02 s"):
            wait_for("20ms")
    with pytest.raises(ValueError, match="timeout= takes seconds"):
        future.result("soon")
    with pytest.raises(TypeError, match="give several futures as one list"):
        wait(future, future)  # type: ignore[arg-type]


def test_a_client_in_a_closure_is_refused_with_the_way_out(client: Client) -> None:
    """Who comes from a notebook has the client as a global."""
    with pytest.raises(SerializationError, match=r"futurebroker\.get_client\(\) gives one there"):
        client.submit(lambda: client.submit(abs, -1))


def test_a_task_that_raises_stop_iteration_fails_with_it(client: Client) -> None:
    """As in an executor of concurrent.futures, though no coroutine can raise it."""
    future = client.submit(next, iter(()))
    with pytest.raises(StopIteration):
        future.result(20)
    assert isinstance(future.exception(20), StopIteration)


def test_a_failed_task_can_be_tried_again(client: Client) -> None:
    """By itself, or when the user says so."""
    COUNTS.clear()
    assert client.submit(_flaky, 3, retries=5).result(20) == 3
    COUNTS.clear()
    future = client.submit(_flaky, 2)
    after = client.submit(inc, future)
    assert isinstance(after.exception(20), ValueError)
    after.retry()
    assert after.result(20) == 3
    assert future.result(20) == 2


COUNTS: list[int] = []


def _flaky(limit: int) -> int:
    COUNTS.append(limit)
    if len(COUNTS) < limit:
        raise ValueError("not yet")
    return len(COUNTS)


def test_a_cancelled_task_takes_its_dependents_along(client: Client, gate: str) -> None:
    """At once for the user; the scheduler tells of the dependents."""
    first = client.submit(blocks, gate)
    second = client.submit(inc, first)
    assert first.cancel()
    with pytest.raises(CancelledError):
        second.result(20)
    assert second.cancelled()


def test_cancelling_is_for_one_client_only(cluster: LocalCluster, client: Client, gate: str) -> None:
    """Another one that wants the same key still gets it."""
    with Client(cluster, set_as_default=False) as other:
        mine, theirs = client.submit(blocks, gate, key="shared"), other.submit(blocks, gate, key="shared")
        while len(other.who_has()) < 1:
            pass
        assert theirs.status == "pending"
        assert other.why("shared")
        mine.cancel()
        EVENTS[gate].set()
        assert theirs.result(20) == gate


def test_an_equal_key_with_other_work_is_refused(client: Client, cluster: LocalCluster) -> None:
    """Rather than giving one client the other's result."""
    kept = client.submit(inc, 1, key="k")
    assert kept.result(20) == 2
    with Client(cluster, set_as_default=False) as other, pytest.raises(DuplicateKeyError):
        other.submit(inc, 5, key="k").result(20)


def test_a_key_that_is_let_go_of_means_the_next_call(client: Client, gate: str) -> None:
    """What is made of the call before is on its way, or runs still; it is never the result of the next."""
    running = client.submit(blocks, gate, key="chosen")
    del running
    for number in range(100):
        future = client.submit(str, number, key="chosen")
        assert future.result(30) == str(number)
        del future
        client.submit(str, "not waited for", key="chosen")


def test_pure_calls_run_once(client: Client) -> None:
    """Also when two clients make them."""
    COUNTS.clear()
    a = client.submit(_flaky, 0, pure=True)
    assert a.result(20) == 1
    assert client.submit(_flaky, 0, pure=True).result(20) == 1
    assert client.submit(_flaky, 0).result(20) == 2


def test_an_unknown_worker_makes_the_task_wait_and_why_says_so(client: Client) -> None:
    """The future is pending, not failed: the worker may come."""
    future = client.submit(inc, 1, workers="nobody")
    assert client.submit(inc, 1).result(20) == 2
    assert future.status == "pending"
    assert "nobody" in client.why(future)
    assert client.submit(inc, 1, workers="nobody", allow_other_workers=True).result(20) == 2


def test_released_results_are_forgotten(client: Client) -> None:
    """Memory follows the futures."""
    futures = client.map(inc, range(50))
    client.gather(futures)
    assert len(client.who_has()) == 50
    keep = futures[0]
    del futures
    gc.collect()
    while len(client.who_has()) > 1:
        pass
    assert list(client.who_has()) == [keep.key]


def test_data_is_scattered_and_used(client: Client) -> None:
    """Small, large, named by content, and inside containers."""
    array = np.arange(200_000)
    small, large = client.scatter([5, array])
    assert client.submit(inc, small).result(20) == 6
    assert client.submit(np.sum, large).result(20) == array.sum()
    assert (large.result(20) == array).all()
    assert client.scatter(array, hash=True).key == client.scatter(array, hash=True).key
    assert client.gather(client.scatter({"x": 1, "y": 2})) == {"x": 1, "y": 2}


def test_large_arguments_and_results_arrive(client: Client) -> None:
    """They take another way than small ones, unseen."""
    array = np.ones(300_000)
    doubled = client.submit(lambda a, factor: a * factor, array, factor=2.0)
    assert doubled.result(20).sum() == 600_000
    assert client.submit(np.sum, doubled).result(20) == 600_000
    result = doubled.result()
    result += 1
    assert client.submit(np.sum, doubled).result(20) == 600_000


def test_what_comes_back_unpicklable_fails_with_the_reason(client: Client) -> None:
    """On the task, not as a hang."""
    with pytest.raises(Exception, match="pickle"):
        client.submit(threading.Lock).result(20)
    with pytest.raises(SerializationError, match="argument 1 of inc"):
        client.submit(inc, threading.Lock())


def test_async_functions_run(client: Client) -> None:
    """On an event loop of the executor's."""

    async def add_later(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    assert client.submit(add_later, 1, client.submit(inc, 1)).result(20) == 3
    assert client.gather(client.map(add_later, range(6), range(6), chunksize=3)) == [0, 2, 4, 6, 8, 10]


def test_futures_come_as_they_are_completed(client: Client, gate: str) -> None:
    """The one that is ready comes first."""
    slow, quick = client.submit(blocks, gate), client.submit(inc, 1)
    completed = as_completed([slow, quick], timeout=20)
    assert next(completed) is quick
    EVENTS[gate].set()
    assert next(completed) is slow
    assert wait([slow, quick]).not_done == set()


def test_what_is_fired_and_forgotten_runs(client: Client) -> None:
    """Though nobody holds its future."""
    COUNTS.clear()
    fire_and_forget(client.submit(_flaky, 0))
    while not COUNTS:
        client.submit(inc, 1).result(20)


def test_the_cluster_answers_questions(client: Client) -> None:
    """By the ids of workers."""
    client.wait_for_workers(1, timeout=20)
    future = client.submit(inc, 1)
    future.result(20)
    (worker,) = client.nthreads()
    assert client.nthreads() == {worker: 2}
    assert client.scheduler_info()["workers"][worker]["status"] == "running"
    assert client.processing() == {worker: []}
    assert client.has_what().keys() == {worker}
    assert client.run(inc, 5) == {worker: 6}
    with pytest.raises(ZeroDivisionError):
        client.run(fails, 5)


def test_an_executor_of_the_standard_library(client: Client) -> None:
    """For code that knows only PEP 3148."""
    with client.get_executor() as executor:
        assert list(executor.map(inc, range(10), chunksize=3)) == list(range(1, 11))
        futures = [executor.submit(os.urandom, 8) for _ in range(2)]
        assert len({future.result(20) for future in concurrent.futures.as_completed(futures, 20)}) == 2
        failing = executor.submit(fails, 1)
        assert isinstance(failing.exception(20), ZeroDivisionError)


def test_the_same_in_asyncio(cluster: LocalCluster) -> None:
    """One class for both."""

    async def work() -> None:
        async with Client(cluster, asynchronous=True) as client, asyncio.timeout(20):
            a = client.submit(inc, 1)
            assert await client.submit(inc, a) == 3
            assert await client.gather(client.map(inc, range(100))) == list(range(1, 101))
            assert await (await client.scatter(np.arange(100_000))).result() is not None
            assert [await future async for future in as_completed([a])] == [2]

    asyncio.run(work())


def test_a_client_without_an_address_has_a_cluster_of_its_own() -> None:
    """Which ends with it."""
    with Client(processes=False, n_workers=1, executors_per_worker=1) as client:
        assert client.submit(inc, 1).result(20) == 2
        assert client.cluster is not None

    async def work() -> None:
        async with Client(processes=False, asynchronous=True) as client:
            assert await client.submit(inc, 1) == 2

    asyncio.run(work())
