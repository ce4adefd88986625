"""Tasks in real executors: results, errors, coroutines, large arrays, order of hand-over."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from futurebroker.data.files import map_value
from futurebroker.exceptions import ResultError, TaskError
from futurebroker.protocol import serialize
from futurebroker.protocol.messages import CallFunction, Finished, Free, FunctionCalled, Held
from futurebroker.worker.context import WorkerContext, get_worker
from tests.integration.agent import working


def inc(x: int) -> int:
    return x + 1


def test_tasks_run_in_another_process_and_know_where() -> None:
    """User code must not be able to stop the agent's heartbeats."""

    def where() -> WorkerContext:
        return get_worker()

    async def scenario() -> None:
        async with working(executors=1, resources={"gpu": 1.0}) as box:
            box.submit("a", where)
            place = await box.value("a")
            assert place.pid != os.getpid()
            assert (place.name, place.id, place.key, place.resources) == ("w", box.worker_id, "a", {"gpu": 1.0})

    asyncio.run(scenario())


def test_get_worker_outside_a_task_says_so() -> None:
    """The same call in a plain program must not invent a worker."""
    with pytest.raises(TaskError, match="only inside a task"):
        get_worker()


@pytest.mark.parametrize("processes", [True, False])
def test_thousands_of_tasks_and_a_chain_are_right(processes: bool) -> None:
    """Packets, pipelining and recall must never change an answer; threads run the same code."""

    async def scenario() -> None:
        async with working(executors=2, processes=processes) as box:
            for i in range(2000):
                box.submit(f"t{i}", inc, i)
            box.submit("c0", inc, 0)
            for i in range(1, 500):
                box.submit(f"c{i}", inc, Held(f"c{i - 1}"))
            await box.until(lambda: sum(isinstance(message, Finished) for message in box.mail[-9000:]) >= 2500)
            values = {m.key: serialize.loads(m.value or b"") for m in box.mail if isinstance(m, Finished)}
            assert values == {f"t{i}": i + 1 for i in range(2000)} | {f"c{i}": i + 1 for i in range(500)}

    asyncio.run(scenario())


def test_a_large_array_is_mapped_writable_and_gone_when_freed() -> None:
    """No copy between tasks of a host, and a task that writes to its input changes nobody else's."""

    def make() -> np.ndarray[Any, Any]:
        return np.arange(1_000_000.0)

    def scribble(array: np.ndarray[Any, Any]) -> float:
        array[0] = 99.0
        return float(array[:2].sum())

    async def scenario() -> None:
        async with working(executors=2) as box:
            box.submit("big", make)
            big = await box.answer("big")
            assert (big.value, big.type) == (None, "ndarray")
            assert big.nbytes > 8_000_000
            box.submit("s1", scribble, Held("big"))
            box.submit("s2", scribble, Held("big"))
            assert [await box.value("s1"), await box.value("s2")] == [100.0, 100.0]
            assert float(serialize.loads(map_value(big.path))[0]) == 0.0
            box.events.deliver([Free(["big"])])
            await box.until(lambda: not Path(big.path).exists())

    asyncio.run(scenario())


def test_an_error_begins_at_the_users_own_line() -> None:
    """Frames of ours above it would be noise in every traceback."""

    def fail() -> None:
        raise ValueError("no luck")

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("a", fail)
            answer = await box.answer("a")
            assert answer.failure.type == "ValueError"
            assert answer.failure.worker == "w"
            assert "worker/child.py" not in answer.failure.traceback
            error = await box.error("a")
            assert isinstance(error, ValueError)
            assert error.__traceback__ is not None
            assert error.__traceback__.tb_frame.f_code.co_name == "fail"

    asyncio.run(scenario())


def test_exits_and_interrupts_of_a_task_are_its_errors() -> None:
    """`sys.exit` in a library must not cost an executor."""

    def leave() -> None:
        sys.exit(3)

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def leave_later() -> None:
        await asyncio.sleep(0)
        sys.exit(4)

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("a", leave)
            box.submit("b", interrupt)
            box.submit("c", leave_later)
            box.submit("d", os.getpid)
            kinds = [type(await box.error(key)) for key in "abc"]
            assert kinds == [SystemExit, KeyboardInterrupt, SystemExit]
            assert await box.value("d")

    asyncio.run(scenario())


def test_a_result_that_cannot_be_pickled_names_its_type() -> None:
    """The user must learn what to return instead."""

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("a", threading.Lock)
            error = await box.error("a")
            assert isinstance(error, ResultError)
            assert "the result of a, of type lock, can't be pickled" in str(error)

    asyncio.run(scenario())


def test_a_function_that_cannot_be_opened_names_what_is_missing() -> None:
    """A module that only the client has is the commonest mistake of all."""

    class Absent:
        def __reduce__(self) -> Any:
            return __import__, ("no_such_module_here",)

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("a", inc, Absent())
            error = await box.error("a")
            assert isinstance(error, TaskError)
            assert "No module named 'no_such_module_here'" in str(error)

    asyncio.run(scenario())


def test_a_very_large_error_travels_as_text() -> None:
    """An exception that holds a gigabyte must not be sent to everybody."""

    def fail() -> None:
        raise ValueError(os.urandom(3_000_000))

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("a", fail)
            answer = await box.answer("a")
            assert answer.failure.payload is None
            assert answer.failure.type == "ValueError"

    asyncio.run(scenario())


def test_large_arguments_and_many_inputs_reach_the_task() -> None:
    """What doesn't fit a packet goes through a file, which is gone afterwards."""

    def total(data: bytes, *others: bytes) -> int:
        return len(data) + sum(map(len, others))

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("a", total, bytes(3_000_000))
            assert await box.value("a") == 3_000_000
            for i in range(5):
                box.submit(f"p{i}", bytes, 60_000)
            box.submit("b", total, b"", *(Held(f"p{i}") for i in range(5)))
            assert await box.value("b") == 300_000

    asyncio.run(scenario())


def test_coroutines_run_on_one_loop_and_overlap_across_threads() -> None:
    """An executor with threads runs as many coroutine tasks at once."""

    def meeting() -> Any:
        async def meet(barrier: list[Any]) -> int:
            if not hasattr(asyncio, "_meeting_place"):
                asyncio._meeting_place = asyncio.Barrier(2)  # type: ignore[attr-defined]
            await asyncio._meeting_place.wait()  # type: ignore[attr-defined]
            assert get_worker().key in "ab"
            return id(asyncio.get_running_loop())

        return meet

    async def scenario() -> None:
        async with working(executors=1, threads=2) as box:
            meet = meeting()
            box.submit("a", meet, [])
            box.submit("b", meet, [])
            assert await box.value("a") == await box.value("b")

    asyncio.run(scenario())


def test_short_tasks_do_not_wait_behind_one_that_turned_out_long(tmp_path: Path) -> None:
    """What is handed ahead is taken back: from the socket by the agent, from a packet by asking its executor."""

    def wait_for(path: str) -> str:
        while path and not os.path.exists(path):
            time.sleep(0.001)
        return path

    async def scenario(path: str) -> None:
        async with working(executors=2) as box:
            for i in range(200):
                box.submit(f"warm{i}", wait_for, "")
            await box.until(lambda: len(box.mail) >= 200)
            for i in range(300):
                box.submit(f"t{i}", wait_for, path if i == 3 else "")
            await box.until(lambda: len(box.mail) >= 499)
            Path(path).touch()
            assert await box.value("t3") == path

    asyncio.run(scenario(str(tmp_path / "go-on")))


def test_a_call_out_of_line_runs_beside_a_busy_task(tmp_path: Path) -> None:
    """`Client.run` is for looking at a worker that is busy."""

    def hold(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.001)

    async def scenario(path: str) -> None:
        async with working(executors=1) as box:
            box.submit("busy", hold, path)
            call = CallFunction(4, serialize.dumps(os.getpid), serialize.dumps(((), {})))
            box.events.deliver([call])
            (answer,) = await box.until(lambda: [m for m in box.mail if isinstance(m, FunctionCalled)])
            assert serialize.loads(answer.value) != os.getpid()
            Path(path).touch()
            await box.answer("busy")

    asyncio.run(scenario(str(tmp_path / "let-go")))


def test_heartbeats_measure_the_executors() -> None:
    """The dashboard shows what these say."""

    async def scenario() -> None:
        async with working(executors=2) as box:
            await box.until(lambda: len(box.heartbeats) >= 2)
            status, metrics = box.heartbeats[-1]
            assert status == "running"
            assert len(metrics["executors"]) == 2
            assert metrics["memory"] > sum(row["memory"] for row in metrics["executors"]) > 0
            assert {"cpu", "managed", "spilled", "executing", "ready", "waiting", "load", "time"} <= metrics.keys()

    asyncio.run(scenario())


def test_signals_to_an_executor_change_nothing() -> None:
    """Platforms send SIGTERM to every process; only the agent decides when executors end."""

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("a", os.getpid)
            pid = await box.value("a")
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
            box.submit("b", os.getpid)
            assert await box.value("b") == pid

    asyncio.run(scenario())
