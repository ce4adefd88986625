"""Ctrl-C waits for the end of what it must not cut in two, and is not swallowed."""

from __future__ import annotations

import signal
import threading

import pytest

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
