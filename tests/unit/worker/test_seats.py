"""Threads of an executor: how many tasks may wait, and what those are told that may not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from futurebroker.exceptions import TaskError
from futurebroker.worker.packets import AWAY_MAX
from futurebroker.worker.seats import Seats, Slot


class Threads:
    """Seats whose extra threads do nothing but be there."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.left: list[int] = []
        self.seats = Seats(1, self._read, lambda _, number: self.left.append(number), _nothing, _nothing)

    def _read(self, slot: Slot) -> None:
        self.ended.wait()

    def run(self, slot: Slot, number: int) -> None:
        """A task begins in this slot."""
        assert self.seats.enter()
        slot.task = number


def _nothing(slot: Slot, number: int) -> None:
    """Nobody is told."""


@contextmanager
def threads() -> Iterator[Threads]:
    """Ended with the test."""
    all_of_them = Threads()
    try:
        yield all_of_them
    finally:
        all_of_them.ended.set()
        for thread in all_of_them.seats.threads:
            thread.join()


def test_a_task_that_the_system_has_no_thread_for_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it waited in its slot all the same, what it waits for could never run there."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with threads() as some:
        slot = some.seats.slots[0]
        some.run(slot, 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(TaskError, match="can't start new thread"):
                slot.give_up(1)
        assert (slot.is_away, some.left) == (False, [])
        assert slot.give_up(1)
        assert (slot.is_away, some.left) == (True, [1])


def test_the_bound_of_waiting_tasks_counts_those_that_wait_now() -> None:
    """Each wait that ends makes room for another."""
    with threads() as some:
        first = some.seats.slots[0]
        some.run(first, 1)
        first.give_up(1)
        for number in range(2, AWAY_MAX + 1):
            slot = some.seats.slots[-1]
            some.run(slot, number)
            slot.give_up(number)
        last = some.seats.slots[-1]
        some.run(last, AWAY_MAX + 1)
        with pytest.raises(TaskError, match="1,000 tasks of this executor wait for others already"):
            last.give_up(AWAY_MAX + 1)
        some.seats.leave(last)
        first.take_back(1)
        assert not first.is_away
        assert first.give_up(1)
        assert len(some.left) == AWAY_MAX + 1


def test_what_is_to_be_alone_waits_for_tasks_and_tasks_for_it() -> None:
    """Two threads that import the parts of one package may each get half of the other's."""
    begun, may_end, entered = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        may_end.wait(30)

    def enter() -> None:
        some.seats.enter()
        entered.set()

    with threads() as some:
        slot = some.seats.slots[0]
        some.run(slot, 1)
        caller = threading.Thread(target=some.seats.alone, args=(call,))
        caller.start()
        assert not begun.wait(0.05)
        some.seats.leave(slot)
        assert begun.wait(30)
        other = threading.Thread(target=enter)
        other.start()
        assert not entered.wait(0.05)
        may_end.set()
        assert entered.wait(30)
        for thread in (caller, other):
            thread.join()


def test_nothing_is_called_after_the_end() -> None:
    """An executor that ends doesn't begin to import pandas."""
    called: list[int] = []
    with threads() as some:
        some.run(some.seats.slots[0], 1)
        some.seats.close()
        some.seats.alone(lambda: called.append(1))
    assert called == []
