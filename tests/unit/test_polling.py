"""Loops with a short way to their readers are asyncio's in all that can be seen; others may have their turn."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from futurebroker.polling import QuickLoop, TurnLoop

PATIENCE = 5


@pytest.fixture
def loop() -> Iterator[QuickLoop]:
    """A loop of the kind that our processes run."""
    quick = QuickLoop()
    yield quick
    quick.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that are connected, and don't block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def run(loop: asyncio.AbstractEventLoop, until: asyncio.Future[Any]) -> Any:
    """The result of ``until``, in time."""
    return loop.run_until_complete(asyncio.wait_for(until, PATIENCE))


def settle(future: asyncio.Future[None]) -> None:
    """The first call counts."""
    if not future.done():
        future.set_result(None)


def test_a_reader_is_called_until_it_is_removed(loop: QuickLoop, ends: tuple[socket.socket, socket.socket]) -> None:
    """As with asyncio's own loops, whatever is left unread calls again."""
    ours, theirs = ends
    seen: list[bytes] = []
    done = loop.create_future()

    def read(size: int) -> None:
        seen.append(ours.recv(size))
        if len(seen) == 3:
            assert loop.remove_reader(ours)
            done.set_result(None)

    loop.add_reader(ours, read, 1)
    theirs.send(b"abcd")
    run(loop, done)
    assert seen == [b"a", b"b", b"c"]
    assert not loop.remove_reader(ours)
    loop.run_until_complete(asyncio.sleep(0))
    assert seen == [b"a", b"b", b"c"]


def test_one_socket_has_a_reader_and_a_writer(loop: QuickLoop, ends: tuple[socket.socket, socket.socket]) -> None:
    """Links wait for room while they read; taking away one leaves the other."""
    ours, theirs = ends
    read, written = loop.create_future(), loop.create_future()

    def write() -> None:
        loop.remove_writer(ours)
        written.set_result(None)

    loop.add_writer(ours, write)
    loop.add_reader(ours.fileno(), lambda: read.set_result(ours.recv(9)))
    run(loop, written)
    theirs.send(b"hello")
    assert run(loop, read) == b"hello"
    again = loop.create_future()
    loop.remove_reader(ours)
    loop.add_writer(ours, settle, again)
    run(loop, again)
    loop.remove_writer(ours)


def test_a_reader_that_raises_is_told_of_and_called_again(
    loop: QuickLoop, ends: tuple[socket.socket, socket.socket]
) -> None:
    """One mistake must not end the service, nor the reading."""
    ours, theirs = ends
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    done = loop.create_future()

    def read() -> None:
        if ours.recv(1) == b"a":
            raise ZeroDivisionError
        done.set_result(None)

    loop.add_reader(ours, read)
    theirs.send(b"ab")
    run(loop, done)
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]


def test_a_reader_that_another_removed_is_not_called(
    loop: QuickLoop, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Both were ready at the same moment; the second belongs to what the first has ended."""
    called: list[socket.socket] = []
    done = loop.create_future()

    def only(mine: socket.socket, other: socket.socket) -> None:
        called.append(mine)
        loop.remove_reader(mine)
        loop.remove_reader(other)
        done.set_result(None)

    for mine, other in (ends, ends[::-1]):
        loop.add_reader(mine, only, mine, other)
        other.send(b"x")
    run(loop, done)
    loop.run_until_complete(asyncio.sleep(0))
    assert len(called) == 1


def test_the_other_end_closing_calls_the_reader(loop: QuickLoop, ends: tuple[socket.socket, socket.socket]) -> None:
    """A lost connection is something to read."""
    ours, theirs = ends
    done = loop.create_future()
    loop.add_reader(ours, settle, done)
    theirs.close()
    run(loop, done)
    assert ours.recv(1) == b""


def test_asyncio_s_own_streams_and_processes_work(loop: QuickLoop) -> None:
    """They register with the poller by asyncio's inner ways."""

    async def work() -> bytes:
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        return (await process.communicate(b"through a pipe"))[0]

    assert run(loop, loop.create_task(work())) == b"through a pipe"


@pytest.fixture
def sleeping() -> Iterator[TurnLoop]:
    """A loop in a thread of its own, with nothing to do for an hour."""
    loop = TurnLoop()

    def serve() -> None:
        with loop.poller.turn:
            loop.run_forever()

    thread = threading.Thread(target=serve)
    thread.start()
    loop.call_soon_threadsafe(loop.call_later, 3600, print)
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("ask", [TurnLoop.call_soon, lambda loop, call: loop.call_later(0.01, call)])
def test_who_has_the_turn_wakes_the_loop_for_what_it_asks(
    sleeping: TurnLoop, ask: Callable[[TurnLoop, Callable[[], object]], object]
) -> None:
    """It sleeps for an hour, and the acknowledgement of what was sent is due in a moment."""
    ran = threading.Event()
    end = time.monotonic() + PATIENCE
    while sleeping.poller.until < end:
        assert time.monotonic() < end
    with sleeping.poller.turn:
        ask(sleeping, ran.set)
    assert ran.wait(PATIENCE)


def test_who_has_the_turn_may_read_instead_of_the_loop(
    sleeping: TurnLoop, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Muted, a socket wakes nobody; later the loop reads it again. Errors of readers are told in both cases."""
    ours, theirs = ends
    read: list[tuple[int, bytes]] = []
    told: list[BaseException] = []
    has_read = threading.Semaphore(0)

    def reader() -> None:
        read.append((threading.get_ident(), ours.recv(100)))
        has_read.release()
        raise ZeroDivisionError

    sleeping.set_exception_handler(lambda _, about: told.append(about["exception"]))
    sleeping.call_soon_threadsafe(sleeping.add_reader, ours, reader)
    theirs.send(b"one")
    assert has_read.acquire(timeout=PATIENCE)
    with sleeping.poller.turn:
        call = sleeping.poller.mute(ours.fileno())
    theirs.send(b"two")
    assert select.select([ours], [], [], PATIENCE)[0]
    with sleeping.poller.turn:
        sleeping.poller.call(call)
        sleeping.poller.unmute(ours.fileno())
    assert has_read.acquire(timeout=0)
    theirs.send(b"three")
    assert has_read.acquire(timeout=PATIENCE)
    with sleeping.poller.turn:
        sleeping.poller.mute(ours.fileno())
    removed = threading.Event()
    sleeping.call_soon_threadsafe(sleeping.remove_reader, ours)
    sleeping.call_soon_threadsafe(removed.set)
    assert removed.wait(PATIENCE)
    with sleeping.poller.turn:
        sleeping.poller.unmute(ours.fileno())  # whose reader has gone meanwhile
    loop, here = read[0][0], threading.get_ident()
    assert read == [(loop, b"one"), (here, b"two"), (loop, b"three")]
    assert [type(error) for error in told] == [ZeroDivisionError] * 3
