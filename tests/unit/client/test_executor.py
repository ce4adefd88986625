"""`get_executor` behaves as PEP 3148 says."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest

from futurebroker.client.client import Client
from futurebroker.protocol import messages as m
from futurebroker.protocol.serialize import dump_failure, dumps
from tests.unit.client.scripted import ScriptedScheduler, finish_at_once


def finish(scheduler: ScriptedScheduler, key: str, value: Any) -> None:
    scheduler.say(m.KeyFinished(key, dumps(value), None))


def test_a_result_arrives_in_a_future_of_the_standard_library(scheduler: ScriptedScheduler, client: Client) -> None:
    """So that `wait` and `as_completed` of `concurrent.futures` take it."""
    with client.get_executor(retries=2) as executor:
        future = executor.submit(len, "abc")
        assert isinstance(future, concurrent.futures.Future)
        (key,) = scheduler.wait_for_keys(1)
        finish(scheduler, key, 3)
        assert list(concurrent.futures.as_completed([future], 5)) == [future]
        assert future.result() == 3
        assert scheduler.wait_for(m.Submit)[0].options.retries == 2


def test_equal_calls_each_run(scheduler: ScriptedScheduler, client: Client) -> None:
    """``executor.submit(random.random)`` twice gives two numbers."""
    scheduler.script[m.Submit] = finish_at_once
    with client.get_executor() as executor:
        assert executor.submit(len, "x").result(5) != executor.submit(len, "x").result(5)


def test_errors_and_callbacks_pass_through(scheduler: ScriptedScheduler, client: Client) -> None:
    """With the task's own exception."""
    with client.get_executor() as executor:
        future = executor.submit(len, "abc")
        called = threading.Event()
        future.add_done_callback(lambda _: called.set())
        (key,) = scheduler.wait_for_keys(1)
        scheduler.say(m.KeyErred(key, dump_failure(ZeroDivisionError("no"), key, "w")))
        with pytest.raises(ZeroDivisionError):
            future.result(5)
        assert called.wait(5)


def test_cancelling_cancels_the_task(scheduler: ScriptedScheduler, client: Client) -> None:
    """And tells those who wait with the standard library's functions."""
    with client.get_executor() as executor:
        future = executor.submit(len, "abc")
        assert future.cancel()
        assert concurrent.futures.wait([future], 5).done == {future}
        assert scheduler.wait_for(m.Cancel)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()


def test_shutting_down_waits_and_then_refuses(scheduler: ScriptedScheduler, client: Client) -> None:
    """The client stays open."""
    executor = client.get_executor()
    future = executor.submit(len, "x")
    ended = threading.Event()

    def shut_down() -> None:
        executor.shutdown()
        ended.set()

    thread = threading.Thread(target=shut_down)
    thread.start()
    (key,) = scheduler.wait_for_keys(1)
    assert not ended.is_set()
    finish(scheduler, key, 1)
    thread.join(5)
    assert future.result(0) == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(len, "x")
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(len, ["x"])
    assert client.submit(len, "x").status == "pending"


def test_shutting_down_may_cancel_what_is_pending(client: Client) -> None:
    """As ``cancel_futures`` says."""
    executor = client.get_executor()
    futures = [executor.submit(len, "x") for _ in range(3)]
    executor.shutdown(wait=True, cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_map_gives_results_in_order(scheduler: ScriptedScheduler, client: Client) -> None:
    """Also in chunks."""
    scheduler.script[m.Submit] = finish_at_once
    with client.get_executor() as executor:
        keys: list[Any] = list(executor.map(len, ["x"] * 5))
        assert keys == sorted(keys, key=lambda key: int(key.partition(client._salt)[2]))
        assert list(executor.map(len, [])) == []

    def finish_chunks(scripted: ScriptedScheduler, submit: m.Submit) -> None:
        for key in submit.keys:
            finish(scripted, key, [1, 2])

    scheduler.script[m.Submit] = finish_chunks
    with client.get_executor() as executor:
        assert list(executor.map(len, ["x"] * 4, chunksize=2)) == [1, 2, 1, 2]


def test_map_times_out_from_its_call_and_cancels_the_rest(scheduler: ScriptedScheduler, client: Client) -> None:
    """Nobody is there any more to take what is still running."""
    with client.get_executor() as executor:
        results = executor.map(len, ["x"] * 3, timeout=0.05)
        with pytest.raises(TimeoutError):
            next(results)
    assert sorted(key for message in scheduler.wait_for(m.Cancel, 3) for key in message.keys) == sorted(
        scheduler.wait_for_keys(3)
    )
