"""Locks, semaphores, events, queues and variables, between a program and its tasks, over restarts and deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from futurebroker import Client, Event, LocalCluster, Lock, MultiLock, Queue, Semaphore, Variable, get_client
from futurebroker.exceptions import FuturebrokerError, MessageTooLargeError
from tests.chaos.ledger import Ledger
from tests.chaos.rig import Rig
from tests.integration.gate import Gate, pass_gate

PATIENCE = 40.0


@pytest.fixture(params=[True, False], ids=["processes", "threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a cluster with two slots."""
    with (
        LocalCluster(n_workers=1, executors_per_worker=2, processes=request.param) as cluster,
        Client(cluster) as client,
    ):
        yield client


def add_one(path: str) -> None:
    with Lock("counter"):
        count = int(Path(path).read_text())
        Path(path).write_text(str(count + 1))


def test_a_lock_lets_one_in_at_a_time(client: Client, tmp_path: Path) -> None:
    """Without it some of these would overwrite each other's count."""
    path = tmp_path / "count"
    path.write_text("0")
    client.gather(client.map(add_one, [str(path)] * 40))
    assert path.read_text() == "40"


def move(folder: str, source: str, target: str) -> None:
    with MultiLock([source, target]):
        first, second = Path(folder, source), Path(folder, target)
        amount = int(first.read_text())
        first.write_text(str(amount - 1))
        second.write_text(str(int(second.read_text()) + 1))


def test_several_locks_are_taken_together(client: Client, tmp_path: Path) -> None:
    """In whatever order tasks name them, which would be a deadlock with single ones; and nothing gets lost between."""
    names = ["a", "b", "c"]
    for name in names:
        (tmp_path / name).write_text("100")
    pairs = [(source, target) for source in names for target in names if source != target] * 5
    client.gather([client.submit(move, str(tmp_path), source, target) for source, target in pairs])
    assert [int((tmp_path / name).read_text()) for name in names] == [100, 100, 100]


def test_several_locks_can_be_some_of_them_or_none(client: Client) -> None:
    """By name they are those of `Lock`; what can't be is said at once."""
    single, lock, rest = Lock("a"), MultiLock(["a", "b", "c"]), MultiLock(["b", "c"])
    assert single.acquire()
    assert not lock.acquire(blocking=False)
    assert not lock.acquire(timeout=0.05)
    assert not lock.locked()
    assert lock.acquire(num_locks=2)
    assert lock.locked()
    assert not rest.acquire(blocking=False)
    with pytest.raises(RuntimeError, match="acquired here already"):
        lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError, match="more often"):
        lock.release()
    with rest:
        assert Lock("b").locked()
    single.release()
    for wrong in (0, 4, True, "2"):
        with pytest.raises(ValueError, match="1 to 3"):
            lock.acquire(num_locks=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blocking=True"):
        lock.acquire(blocking=False, timeout=1)
    with pytest.raises(ValueError, match="at least one"):
        MultiLock([])
    with pytest.raises(ValueError, match="at least one"):
        MultiLock([1])  # type: ignore[list-item]


def produce(queue: Queue, count: int) -> None:
    for number in range(count):
        queue.put(get_client().submit(pow, number, 2))


def consume(queue: Queue, count: int) -> int:
    return sum(queue.get(PATIENCE).result() for _ in range(count))


def test_tasks_pass_futures_on_by_a_queue(client: Client) -> None:
    """A bounded queue: the producer waits for the consumer, and futures outlive the producer's own."""
    queue = Queue(maxsize=2)
    taken, put = client.submit(consume, queue, 10), client.submit(produce, queue, 10)
    assert taken.result(PATIENCE) == 285
    put.result(PATIENCE)
    assert queue.qsize() == 0
    for number in range(2):
        queue.put(number)
    assert queue.get(batch=2) == [0, 1]
    queue.close()


def wait_for(event: Event) -> bool:
    return bool(event.wait(PATIENCE))


def test_more_tasks_than_slots_wait_for_an_event(client: Client) -> None:
    """Who waits has no slot, so what sets the event gets one."""
    event = Event()
    futures = client.map(wait_for, [event] * 6)
    assert not event.is_set()
    client.submit(event.set).result(PATIENCE)
    assert client.gather(futures) == [True] * 6
    event.clear()
    assert event.wait(0.01) is False


def test_a_variable_holds_a_future(client: Client) -> None:
    """And gives it to whoever asks."""
    variable = Variable()
    with pytest.raises(TimeoutError, match="was not set"):
        variable.get(timeout=0.01)
    variable.set(client.submit(pow, 2, 9))
    assert variable.get().result(PATIENCE) == 512
    assert client.submit(lambda: Variable(variable.name).get().result() + 1).result(PATIENCE) == 513
    variable.delete()


def test_what_can_not_be_is_said(client: Client) -> None:
    """With the way out."""
    semaphore = Semaphore(2, "pair")
    assert semaphore.acquire()
    assert semaphore.get_value() == 1
    with pytest.raises(FuturebrokerError, match="has max_leases=2, not 3"):
        Semaphore(3, "pair").acquire()
    semaphore.release()
    with pytest.raises(RuntimeError, match="more often"):
        semaphore.release()
    with pytest.raises(MessageTooLargeError, match="scatter it"):
        Queue().put(bytes(2_000_000))
    with pytest.raises(TypeError, match="timeout="):
        Event().wait("long")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 or more"):
        Semaphore(0)


def test_all_of_it_works_in_asyncio() -> None:
    """Methods return awaitables with an asynchronous client."""

    async def work() -> None:
        async with (
            LocalCluster(processes=False, executors_per_worker=1, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True),
        ):
            lock, queue, event, variable = Lock(), Queue(), Event(), Variable()
            async with lock:
                assert await lock.locked()
                assert not await lock.acquire(blocking=False)
            several = MultiLock(["one", "other"])
            async with several:
                assert several.locked()
            assert await several.acquire(num_locks=1)
            await several.release()
            waiting = asyncio.gather(queue.get(), event.wait(), variable.get())
            await queue.put(1)
            await event.set()
            await variable.set(2)
            assert list(await waiting) == [1, True, 2]

    asyncio.run(work())


def hold_lock(port: int, ledger: str) -> None:
    with Lock("held"):
        pass_gate(port, ledger, "held")


def test_a_lock_ends_with_the_executor_that_held_it(tmp_path: Path) -> None:
    """Its task is run again, and others get the lock in the meantime."""
    with (
        Gate() as gate,
        LocalCluster(n_workers=1, executors_per_worker=1) as cluster,
        Client(cluster) as client,
    ):
        ledger = Ledger(tmp_path)
        future = client.submit(hold_lock, gate.port, ledger.path)
        arrival = gate.arrival()
        lock = Lock("held")
        assert not lock.acquire(blocking=False)
        os.kill(arrival.pid, signal.SIGKILL)
        assert lock.acquire(timeout=PATIENCE)
        lock.release()
        gate.arrival().release()
        future.result(PATIENCE)


@pytest.mark.slow
def test_a_lock_is_held_over_a_restart_of_the_scheduler() -> None:
    """The new scheduler gives it to nobody else, and who waits goes on waiting."""
    with Rig(0) as rig, rig.client() as first, rig.client() as second:
        lock, other = Lock("l", first), Lock("l", second)
        lock.acquire()
        got = threading.Thread(target=other.acquire)
        got.start()
        rig.kill_scheduler()
        rig.start_scheduler()
        assert Event("e", second).wait(0.01) is False
        assert lock.locked()
        assert got.is_alive()
        lock.release()
        got.join(PATIENCE)
        assert not got.is_alive()
        other.release()
