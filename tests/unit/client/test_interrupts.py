"""Signals wait for the end of what they must not cut in two, and are not swallowed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from futurebroker.client import interrupts
from futurebroker.client.interrupts import Uninterrupted


def test_ctrl_c_comes_after_the_block() -> None:
    """All of the block is done, and then the program is interrupted as it would have been."""
    done = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with Uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("all")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is before


class AlarmError(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[list[str]]:
    """Two handlers of a program's own; what they noted. The first raises."""
    noted = []

    def raises(_number: int, frame: FrameType | None) -> None:
        assert frame is not None
        noted.append("raised")
        raise AlarmError

    before = signal.signal(signal.SIGUSR1, raises)
    other = signal.signal(signal.SIGUSR2, lambda *_: noted.append("noted"))
    yield noted
    signal.signal(signal.SIGUSR1, before)
    signal.signal(signal.SIGUSR2, other)


def test_every_handler_waits_and_each_is_called(alarm: list[str]) -> None:
    """A program's own timers raise as Ctrl-C does; a signal that came twice is one, as it is in the system."""

    def work() -> None:
        with Uninterrupted():
            for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
                signal.raise_signal(number)
            alarm.append("all")

    with pytest.raises(AlarmError):
        work()
    assert alarm[0] == "all"
    assert sorted(alarm[1:]) == ["noted", "raised"]


def test_a_handler_that_is_set_later_is_kept_out_too(alarm: list[str]) -> None:
    """What was seen of the handlers the last time isn't taken for what they are."""
    with Uninterrupted():
        pass
    signal.signal(signal.SIGUSR2, lambda *_: alarm.append("another"))
    with Uninterrupted():
        signal.raise_signal(signal.SIGUSR2)
        assert not alarm
    assert alarm == ["another"]


def test_a_handler_that_is_set_within_stays(alarm: list[str]) -> None:
    """A finalizer may set one, or a handler that is called as the block ends."""
    with Uninterrupted():
        signal.signal(signal.SIGUSR2, lambda *_: alarm.append("another"))
    signal.raise_signal(signal.SIGUSR2)
    assert alarm == ["another"]


def test_within_each_other_the_outer_block_counts(alarm: list[str]) -> None:
    """A finalizer may run anywhere, and send what its object held."""
    with Uninterrupted():
        with Uninterrupted():
            signal.raise_signal(signal.SIGUSR2)
        assert not alarm
    assert alarm == ["noted"]


@pytest.mark.parametrize("moment", ["begin", "end"])
def test_a_handler_that_raises_in_between_leaves_the_others_in_force(
    alarm: list[str], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Setting a handler runs those that are due, and one of them may raise at the block's first or last step."""
    program = signal.getsignal(signal.SIGUSR2)
    real, due = signal.signal, [AlarmError()]

    def runs_what_is_due(number: int, handler: Any) -> Any:
        if due and number == signal.SIGUSR2 and (handler is program) == (moment == "end"):
            raise due.pop()
        return real(number, handler)

    monkeypatch.setattr(interrupts, "signal", runs_what_is_due)
    done = []
    with pytest.raises(AlarmError), Uninterrupted():
        done.append("block")
    assert done == (["block"] if moment == "end" else [])
    for _ in range(2):
        signal.raise_signal(signal.SIGUSR2)
        assert alarm == ["noted"]
        with Uninterrupted():
            signal.raise_signal(signal.SIGUSR2)
            assert alarm == ["noted"]
        assert alarm == ["noted", "noted"]
        alarm.clear()
        assert signal.getsignal(signal.SIGUSR2) is program


def test_asyncio_is_told_of_a_signal_once() -> None:
    """It hears of signals by other means; its handler is none that could interrupt."""

    async def work() -> list[int]:
        told: list[int] = []
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.append, 1)
        with Uninterrupted():
            signal.raise_signal(signal.SIGUSR1)
        heard = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, heard.set)
        signal.raise_signal(signal.SIGUSR2)
        await heard.wait()
        return told

    assert asyncio.run(work()) == [1]


FORKED = """
import os, signal, sys, threading
from futurebroker.client.interrupts import Uninterrupted

forked = threading.Event()
ends = threading.Event()

def fork():
    child = os.fork()
    if not child:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with Uninterrupted():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    forked.set()

with Uninterrupted():
    threading.Thread(target=fork).start()
    forked.wait()
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_a_fork_by_another_thread_has_the_program_s_handlers() -> None:
    """There the thread that forked is the main one, and nobody would put them back."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_without_ctrl_c_nothing_is_different_afterwards() -> None:
    """The program's own handler is back, and the block's error gets through."""
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with Uninterrupted():
            assert signal.getsignal(signal.SIGINT) is not before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_program_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    """Its handler is no function to be called; there is nothing to keep out."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_the_handler_alone() -> None:
    """Python lets only the main thread change it, and interrupts only that."""
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
