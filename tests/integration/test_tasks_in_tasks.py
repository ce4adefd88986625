"""Tasks that submit tasks, with a real scheduler and real workers: slots, families, and futures that travel."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from futurebroker import (
    CancelledError,
    Client,
    Event,
    Future,
    LocalCluster,
    as_completed,
    fire_and_forget,
    get_client,
    get_worker,
    local_client,
    rejoin,
    secede,
    wait,
    worker_client,
)
from futurebroker.exceptions import ExecutorDiedError, TaskError
from futurebroker.worker.packets import AWAY_MAX
from tests.chaos.ledger import Ledger, write_down
from tests.chaos.rig import Rig
from tests.integration.gate import Gate, pass_gate

PATIENCE = 40.0


@pytest.fixture(params=[True, False], ids=["processes", "threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a cluster with one slot in all."""
    with (
        LocalCluster(n_workers=1, executors_per_worker=1, processes=request.param) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Where tasks wait for the test."""
    with Gate() as gate:
        yield gate


@pytest.fixture
def ledger(tmp_path: Any) -> Ledger:
    """Where executions are counted."""
    return Ledger(tmp_path)


def fibonacci(n: int) -> int:
    if n < 2:
        return n
    client = get_client()
    low, high = client.submit(fibonacci, n - 2), client.submit(fibonacci, n - 1)
    return int(low.result() + high.result())


def quicksort(numbers: list[int]) -> list[int]:
    if len(numbers) < 2:
        return numbers
    first, *rest = numbers
    with local_client() as client:
        parts = [[n for n in rest if n < first], [n for n in rest if n >= first]]
        low, high = client.gather(client.map(quicksort, parts))
    return [*low, first, *high]


def deep(depth: int) -> int:
    return 0 if not depth else 1 + int(get_client().submit(deep, depth - 1).result())


def many_ways(n: int) -> list[int]:
    """Every way of waiting gives the slot to others."""
    client = get_client()
    futures = client.map(abs, range(n))
    wait(futures)
    done = sorted(future.result() for future in as_completed(client.map(abs, range(n))))
    return [*done, *client.gather(client.map(abs, range(n))), futures[-1].result()]


async def awaits(n: int) -> int:
    client = get_client()
    return sum(await client.gather(client.map(fibonacci, range(n))))


def test_recursion_needs_no_more_than_one_slot(client: Client) -> None:
    """Fibonacci and quicksort: every level waits for the next, and there is one slot."""
    assert client.submit(fibonacci, 9).result(PATIENCE) == 34
    numbers = random.Random(1).sample(range(1000), 60)
    assert client.submit(quicksort, numbers).result(PATIENCE) == sorted(numbers)


def test_recursion_may_be_deep(client: Client) -> None:
    """A hundred tasks wait for one another."""
    assert client.submit(deep, 100).result(PATIENCE) == 100


def awaits_the_event(_: int) -> bool:
    return bool(Event("go").wait())


@pytest.mark.slow
def test_a_thousand_tasks_of_an_executor_may_wait_and_the_next_is_told_why_not() -> None:
    """Each holds a thread. Who wants to wait beyond that gets an error; the others wait on, and nothing hangs."""
    with LocalCluster(n_workers=1, executors_per_worker=1) as cluster, Client(cluster) as client:
        futures = client.map(awaits_the_event, range(AWAY_MAX + 1))
        done, waiting = wait(futures, 2 * PATIENCE, return_when="FIRST_COMPLETED")
        (error,) = [future.exception() for future in done]
        assert isinstance(error, TaskError)
        assert "1,000 tasks of this executor wait for others already" in str(error)
        Event("go", client=client).set()
        assert client.gather(list(waiting)) == [True] * AWAY_MAX


def test_every_way_to_wait_gives_up_the_slot(client: Client) -> None:
    """result, gather, wait and as_completed alike; coroutines too."""
    assert client.submit(many_ways, 4).result(PATIENCE) == [0, 1, 2, 3, 0, 1, 2, 3, 3]
    assert client.submit(awaits, 6).result(PATIENCE) == sum((0, 1, 1, 2, 3, 5))


def several_wait(n: int) -> list[int]:
    return list(get_client().gather(get_client().map(fibonacci, [n, n, n])))


def test_parents_beside_one_another_finish_too(client: Client) -> None:
    """Many parents wait at a time, and each goes on when its children are done."""
    assert client.gather(client.map(several_wait, [3] * 8)) == [[2, 2, 2]] * 8


def test_the_client_of_a_task_is_there_outside_as_well(client: Client) -> None:
    """The same function runs in a task and in a program."""
    assert get_client() is client
    with pytest.raises(TaskError, match="inside a task"):
        secede()
    with worker_client(separate_thread=False) as other:
        assert other is client


# -- what a family is ----------------------------------------------------------------------------------------------


def inc(x: int) -> int:
    return x + 1


def begin(n: int) -> list[Future[int]]:
    return get_client().map(inc, range(n))


class Box:
    """Opaque to the search for futures in arguments."""

    def __init__(self, content: Any) -> None:
        self.content = content


def open_box(box: Box) -> int:
    return int(box.content.result()) + 1


def test_futures_are_returned_from_tasks_and_passed_to_them(client: Client) -> None:
    """What a task began outlives it if its result names it; inside, a future is of use."""
    futures = client.submit(begin, 3).result(PATIENCE)
    assert client.gather(futures) == [1, 2, 3]
    assert client.submit(open_box, Box(futures[2])).result(PATIENCE) == 4
    assert client.submit(inc, futures[2]).result(PATIENCE) == 4


def begin_and_leave(ledger: str) -> str:
    future = get_client().submit(write_down, ledger, "child")
    fire_and_forget(future)
    return "left"


def test_a_child_may_outlive_its_parent_if_it_is_told_to(client: Client, ledger: Ledger) -> None:
    """fire_and_forget from a task that ends at once."""
    assert client.submit(begin_and_leave, ledger.path).result(PATIENCE) == "left"
    while ledger.count("child") == 0:
        client.nthreads()


def begins_at(port: int, ledger: str) -> int:
    client = get_client()
    child = client.submit(pass_gate, port, ledger, "child")
    return int(child.result()[0])


def test_children_end_with_a_cancelled_parent(client: Client, gate: Gate, ledger: Ledger) -> None:
    """Nobody else wants them, and what still runs of the parent can't begin more."""
    parent = client.submit(begins_at, gate.port, ledger.path)
    arrival = gate.arrival()
    assert client.scheduler_info()["kinds"]["pass_gate"]["states"] == {"processing": 1}
    parent.cancel()
    with pytest.raises(CancelledError):
        parent.result(PATIENCE)
    until(lambda: "processing" not in client.scheduler_info()["kinds"]["pass_gate"]["states"])
    arrival.release()
    assert client.submit(inc, 1).result(PATIENCE) == 2


def until(condition: Callable[[], bool]) -> None:
    """Ask until it is so; each question goes to the scheduler and back, so this is no busy loop."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"


def begins_elsewhere(port: int, ledger: str) -> int:
    write_down(ledger, "parent")
    child = get_client().submit(pass_gate, port, ledger, "child", workers="w1")
    return int(child.result()[0])


@pytest.mark.slow
def test_children_outlive_the_worker_of_their_parent(gate: Gate, ledger: Ledger) -> None:
    """The parent runs again elsewhere, makes the same call, and finds what has become of it."""
    with (
        Rig(2, suspect_grace=0.5, heartbeat_interval=0.2, policy={"stealing": False}) as rig,
        rig.client() as client,
    ):
        client.wait_for_workers(2, PATIENCE)
        parent = client.submit(begins_elsewhere, gate.port, ledger.path, workers="w0", allow_other_workers=True)
        arrival = gate.arrival()
        rig.outposts[0].kill()
        until(lambda: len(client.nthreads()) == 1)
        arrival.release()
        assert parent.result(PATIENCE) == arrival.pid
        assert (ledger.count("parent"), ledger.count("child")) == (2, 1)


def fails_first(ledger: str) -> int:
    """Its child fails the first time, and so does it; when it is retried, so is the child."""
    return int(get_client().submit(_fails_first, ledger).result())


def _fails_first(ledger: str) -> int:
    write_down(ledger, "child")
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM executions").fetchone()
    if count == 1:
        raise ValueError("the first time")
    return int(count)


def test_a_retried_parent_begins_its_children_anew(client: Client, ledger: Ledger) -> None:
    """A child's failure is part of what is tried again."""
    assert client.submit(fails_first, ledger.path, retries=1).result(PATIENCE) == 2


def secedes(port: int, ledger: str) -> str:
    secede()
    pass_gate(port, ledger, "away")
    rejoin()
    return get_worker().key


def test_a_task_may_give_up_its_slot_by_itself(client: Client, gate: Gate, ledger: Ledger) -> None:
    """For waits that we know nothing of."""
    future = client.submit(secedes, gate.port, ledger.path)
    arrival = gate.arrival()
    assert client.submit(inc, 1).result(PATIENCE) == 2
    arrival.release()
    assert future.result(PATIENCE) == future.key


def rejoins() -> None:
    rejoin()


def test_rejoining_without_having_seceded_is_an_error(client: Client) -> None:
    """It would take a slot twice."""
    with pytest.raises(TaskError, match="undoes secede"):
        client.submit(rejoins).result(PATIENCE)


def kills_its_executor() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_while_a_parent_waits() -> None:
    get_client().submit(kills_its_executor).result()


def test_a_child_that_ends_the_executor_of_its_parent_is_the_one_to_blame() -> None:
    """The parent only waited: it is run again until the child has failed."""
    with LocalCluster(n_workers=1, executors_per_worker=1) as cluster, Client(cluster) as client:
        error = client.submit(dies_while_a_parent_waits).exception(PATIENCE)
    assert isinstance(error, ExecutorDiedError)
    assert error.key.startswith("kills_its_executor")


def dies_of_a_thread(port: int, ledger: str) -> None:
    """While it waits, a thread of its own ends its executor."""

    def pass_and_kill() -> None:
        pass_gate(port, ledger, "thread")
        kills_its_executor()

    threading.Thread(target=pass_and_kill, daemon=True).start()
    Event("never set").wait()


def test_a_parent_that_ends_its_executor_while_it_waits_does_so_no_more_than_allowed(
    gate: Gate, ledger: Ledger
) -> None:
    """Nothing else ran there: if nobody were to blame it would be run again for ever."""
    with LocalCluster(n_workers=1, executors_per_worker=1) as cluster, Client(cluster) as client:
        parent = client.submit(dies_of_a_thread, gate.port, ledger.path)
        for _ in range(4):
            arrival = gate.arrival()
            assert client.submit(inc, 1).result(PATIENCE) == 2  # so it has given up its slot
            arrival.release()
        error = parent.exception(PATIENCE)
    assert isinstance(error, ExecutorDiedError)
    assert (error.key, error.deaths) == (parent.key, 4)
    assert ledger.count("thread") == 4
