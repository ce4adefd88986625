"""A thread that waits for a result reads it itself at first; nothing else that can be seen is different for it."""

from __future__ import annotations

import contextvars
import gc
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future as Waiting
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from futurebroker import CancelledError, Client, Future, LocalCluster
from tests.chaos.ledger import Ledger
from tests.integration.gate import Arrival, Gate, pass_gate

PATIENCE = 20.0

_variable: contextvars.ContextVar[object] = contextvars.ContextVar("_variable")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler at the other end of a socket: inside one process the client has no loop of its own."""
    with LocalCluster(executors_per_worker=3) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client whose threads read as long as they wait, so that a test meets one at it."""
    with Client(cluster, set_as_default=False) as client:
        client._connection._reading.seconds = PATIENCE
        yield client


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads to wait in."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Come:
    """Makes calls that wait until the test lets them through."""

    def __init__(self, gate: Gate, ledger: Ledger) -> None:
        self._gate = gate
        self._ledger = ledger

    def __call__(self, client: Client, key: str) -> tuple[Future[tuple[int, bytes]], Arrival]:
        future = client.submit(pass_gate, self._gate.port, self._ledger.path, key)
        return future, self._gate.arrival()


@pytest.fixture
def come(tmp_path: Path) -> Iterator[Come]:
    """See `Come`."""
    with Gate() as gate:
        yield Come(gate, Ledger(tmp_path))


def inc(x: int) -> int:
    return x + 1


def begin_to_read(client: Client, threads: ThreadPoolExecutor, wait: Callable[[], Any]) -> Waiting[Any]:
    """Have a thread wait, which reads by the time this returns."""
    end = time.monotonic() + PATIENCE
    while client._connection.outbox.awake:  # a burst is under way, in which the I/O thread reads
        assert time.monotonic() < end
    waiting = threads.submit(wait)
    while not client._connection._reading.is_underway:
        assert time.monotonic() < end
    return waiting


def test_who_reads_reads_for_the_others(client: Client, come: Come, threads: ThreadPoolExecutor) -> None:
    """One thread reads while its own result is the last to come; others wait, are called back, and ask."""
    slow, last = come(client, "slow")
    waiting = begin_to_read(client, threads, lambda: slow.result(PATIENCE))
    quick, first = come(client, "quick")
    called = threading.Event()
    quick.add_done_callback(lambda _: called.set())
    other = threads.submit(quick.result, PATIENCE)
    first.release()
    assert other.result(PATIENCE)[0] == first.pid
    assert called.wait(PATIENCE)
    assert list(client.nthreads().values()) == [3]
    assert [future.result(PATIENCE) for future in client.map(inc, range(100))] == list(range(1, 101))
    assert not waiting.done()
    assert client._connection._reading.is_underway
    last.release()
    assert waiting.result(PATIENCE)[0] == last.pid


def test_who_reads_is_woken_by_another_thread(client: Client, come: Come, threads: ThreadPoolExecutor) -> None:
    """Its future is cancelled here, and nothing of that comes over the socket for long."""
    future, arrival = come(client, "cancelled")
    waiting = begin_to_read(client, threads, future.result)
    future.cancel()
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE / 2)
    arrival.release()


def test_after_a_timeout_the_io_thread_reads_on(client: Client, come: Come) -> None:
    """The result is not lost on who gave up."""
    future, arrival = come(client, "late")
    with pytest.raises(TimeoutError):
        future.result(0.02)
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    arrival.release()
    assert done.wait(PATIENCE)
    assert future.result(0)[0] == arrival.pid


def test_many_threads_at_once_each_get_theirs(client: Client, threads: ThreadPoolExecutor) -> None:
    """They take turns in reading."""

    def work(begin: int) -> list[int]:
        return [client.submit(inc, i).result(PATIENCE) for i in range(begin, begin + 200)]

    for begin, results in zip(range(0, 8000, 1000), threads.map(work, range(0, 8000, 1000)), strict=True):
        assert results == list(range(begin + 1, begin + 201))


class Keeps:
    """Is in a circle with itself, and waits for a result when it is collected."""

    def __init__(self, client: Client, future: Future[int], got: list[int]) -> None:
        self.client = client
        self.future = future
        self.got = got
        self.itself = self

    def __del__(self) -> None:
        self.got.append(self.future.result(PATIENCE))
        self.got.append(len(self.client.nthreads()))


def test_a_finalizer_that_waits_while_its_thread_reads_is_answered(
    client: Client, come: Come, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector may run it anywhere; what its thread was about to read, the I/O thread reads."""
    reads = client._connection._reading
    assert reads._bell is not None
    wait = reads._bell.wait
    got: list[int] = []

    def collects_first(seconds: float) -> bool:
        if not got:
            got.append(0)
            Keeps(client, client.submit(inc, 5), got)
            gc.collect()
        return wait(seconds)

    monkeypatch.setattr(reads._bell, "wait", collects_first)
    assert client.submit(inc, 1).result(PATIENCE) == 2
    assert got == [0, 6, 1]


def test_a_time_limit_holds_while_the_io_thread_is_busy(
    client: Client, come: Come, threads: ThreadPoolExecutor
) -> None:
    """Something can be read, and its turn isn't to be had."""
    future, arrival = come(client, "awaited")
    other, first = come(client, "other")
    waiting = begin_to_read(client, threads, lambda: future.result(1.0))
    is_busy, may_go_on = threading.Event(), threading.Event()

    def takes_long() -> None:
        is_busy.set()
        may_go_on.wait(PATIENCE)

    client._connection._loop.call_soon_threadsafe(takes_long)
    assert is_busy.wait(PATIENCE)
    first.release()
    assert isinstance(waiting.exception(PATIENCE / 2), TimeoutError)
    may_go_on.set()
    assert other.result(PATIENCE)[0] == first.pid
    arrival.release()
    assert future.result(PATIENCE)[0] == arrival.pid


def test_the_context_of_who_reads_is_not_kept(client: Client) -> None:
    """What the reading thread leads to, as timers, belongs to the connection."""

    class Held:
        pass

    gone = threading.Event()

    def work() -> None:
        held = Held()
        weakref.finalize(held, gone.set)
        _variable.set(held)
        for i in range(300):
            client.submit(inc, i).result(PATIENCE)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert gone.wait(PATIENCE)


class AlarmError(Exception):
    pass


def test_handlers_of_signals_that_raise_lose_nothing(cluster: LocalCluster) -> None:
    """As those of timers do, anywhere in the main thread: what was submitted has its result all the same."""
    is_armed = False

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise AlarmError

    before = signal.signal(signal.SIGUSR1, handler)
    main, stop = threading.main_thread().ident, threading.Event()
    assert main is not None
    chance = random.Random(1)

    def storm() -> None:
        while not stop.wait(chance.random() * 0.0006):
            signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=storm)
    thread.start()
    alarms, kept = 0, {}
    try:
        with Client(cluster, set_as_default=False) as client:
            for i in range(3000):
                try:
                    is_armed = True
                    kept[i] = client.submit(inc, i)
                    kept[i].result()
                    is_armed = False
                except AlarmError:
                    alarms += 1
            assert {i: future.result(PATIENCE) for i, future in kept.items()} == {i: i + 1 for i in kept}
            assert client.gather(client.map(inc, range(1000))) == list(range(1, 1001))
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert alarms > 100
    assert len(kept) > 100
