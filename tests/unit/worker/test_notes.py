"""What an executor notes of tasks: short words for any value, bounded output, and no more than may be sent."""

from __future__ import annotations

import io
import pickle
import sys
import time
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy
import pytest

from futurebroker.inside import Place, current_task
from futurebroker.worker import notes as notes_module
from futurebroker.worker.notes import HEAD, OPEN_MOST, TAIL, Note, Notebook, Printed, clean
from futurebroker.worker.packets import Result
from futurebroker.worker.words import TEXT_MOST, WORDS_MOST, call_in_words, in_words


@dataclass
class Order:
    """A user's class."""

    number: int
    items: list[int]
    token: str = field(default="hidden", repr=False)


class Broken:
    """A class that can't be looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Loud:
    """A class that says too much."""

    def __repr__(self) -> str:
        return "x" * 1_000_000


Point = namedtuple("Point", "x y")
itself: list[Any] = []
itself.append(itself)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "1.5"),
        ("it's", '"it\'s"'),
        ((1,), "(1,)"),
        ((), "()"),
        (set(), "set()"),
        (frozenset({1}), "frozenset({1})"),
        ([[[[1, 2]]]], "[[[[2 items]]]]"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … 999,990 more]"),
        ({"a": 1, "password": "x", "api_key": "y"}, "{'a': 1, 'password': ***, 'api_key': ***}"),
        (OrderedDict(a=1), "OrderedDict({'a': 1})"),
        (deque([1]), "deque([1])"),
        (Point(1, "b"), "Point(x=1, y='b')"),
        (Order(1, list(range(12))), "Order(number=1, items=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … 2 more])"),
        (Broken(), "<Broken>"),
        (10**1000, "<a number of 3,322 bits>"),
        (len, "<len>"),
        (Order, "<Order>"),
        (numpy.zeros((1000, 3)), "<ndarray (1000, 3) float64>"),
        (numpy.arange(3), "array([0, 1, 2])"),
    ],
)
def test_any_value_is_told_in_few_words(value: object, words: str) -> None:
    """An operator looks at the arguments of a failed task: they must say something, and hide what is secret."""
    assert in_words(value) == words


@pytest.mark.parametrize("value", ["é" * 10**6, b"\0" * 10**6, Loud(), itself, {str(n): "y" * 500 for n in range(50)}])
def test_words_stay_few_whatever_the_value(value: object) -> None:
    """A page is not the place for a megabyte, nor the executor's time for making one."""
    assert len(in_words(value)) <= max(WORDS_MOST, 10 * TEXT_MOST)
    assert len(call_in_words((value,) * 50, {"again": value})) <= WORDS_MOST


def test_words_take_no_longer_for_large_values() -> None:
    """A repr of these takes half a second; words look at ten of them."""
    large = {"rows": list(range(3_000_000))}
    began = time.thread_time()
    in_words(large)
    assert time.thread_time() - began < 0.05


def test_arguments_read_like_a_call() -> None:
    """Secrets are hidden by the names they are passed under."""
    assert call_in_words((1, "b"), {"retries": 3, "password": "x"}) == "1, 'b', retries=3, password=***"
    assert call_in_words(tuple(range(12)), {}) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 2 more"


def test_output_keeps_its_beginning_and_its_end() -> None:
    """What a long loop prints at last says why it failed; what it printed first, what it was about."""
    note = Note("k")
    for number in range(100_000):
        note.add(f"line {number}\n")
    text = note.output()
    assert text.startswith("line 0\n")
    assert text.endswith("line 99999\n")
    assert "characters left out" in text
    assert len(text) < HEAD + TAIL + 100
    assert sum(map(len, note.tail)) < TAIL + 100


@pytest.mark.parametrize(
    ("printed", "read"),
    [
        ("\x1b[31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("  0%|    \r 50%|##  \r100%|####\ndone\r\n", "100%|####\ndone\n"),
        ("caf\udce9", "caf?"),
    ],
)
def test_output_is_made_readable(printed: str, read: str) -> None:
    """Progress bars and colours are for terminals; a page shows what they came to."""
    assert clean(printed) == read


class Told:
    """Takes what is told to the scheduler."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def __call__(self, topic: str, key: str, about: Any) -> None:
        self.said.append((topic, about))


@pytest.fixture
def task() -> Any:
    """Runs something as a task of this thread."""

    def run(number: int, work: Any) -> None:
        token = current_task.set((Place("w", "w-1"), f"k-{number}", None, number))
        try:
            work()
        finally:
            current_task.reset(token)

    return run


def test_what_a_task_prints_is_noted_and_goes_where_it_went(task: Any) -> None:
    """The worker's own log stays complete; lines of nobody are nobody's."""
    out, notebook, told = io.StringIO(), Notebook(output=True, arguments=True), Told()
    printed = Printed(out, notebook)
    print("not a task", file=printed)
    assert not notebook.open
    task(7, lambda: print("one", "two", file=printed))
    task(8, lambda: printed.writelines(["three\n", "\ud800"]))
    assert out.getvalue() == "not a task\none two\nthree\n\ud800"
    assert notebook.so_far(8) == "three\n?"
    notebook.send([Result(6, 0), Result(7, 0), Result(8, 0)], told)
    ((topic, (rows, left_out)),) = told.said
    assert (topic, left_out) == ("notes", 0)
    assert [(row[0], *row[2:]) for row in rows] == [("k-7", "", "", "one two\n"), ("k-8", "", "", "three\n?")]
    assert not notebook.open


def test_what_refers_to_standard_output_still_travels() -> None:
    """A logger's handler holds it, and so does what holds the logger."""
    printed = Printed(io.StringIO(), Notebook(output=True, arguments=True), "stderr")
    assert pickle.loads(pickle.dumps(printed)) is sys.stderr
    assert printed.getvalue() == ""
    assert not printed.closed


def test_words_are_made_of_what_takes_long_fails_or_prints(task: Any) -> None:
    """Of a million short tasks nobody reads the arguments, and each would pay for them."""
    notebook, told = Notebook(output=True, arguments=True), Told()
    notebook.returned(1, "short", (1,), {}, 2, 500)
    notebook.returned(2, "long", (1,), {"b": 2}, 3, 50_000)
    notebook.ended(3, "failed", ("x",), {})
    task(4, lambda: notebook.printed("hi"))
    notebook.returned(4, "k-4", (), {}, None, 500)
    notebook.send([Result(number, 0) for number in range(5)], told)
    rows = told.said[0][1][0]
    assert [[row[0], *row[2:]] for row in rows] == [
        ["long", "1, b=2", "3", ""], ["failed", "'x'", "", ""], ["k-4", "", "None", "hi"],
    ]  # fmt: skip


def test_who_wants_no_words_gets_none() -> None:
    """Arguments may be what nobody but the tasks should see."""
    notebook = Notebook(output=False, arguments=False)
    notebook.returned(2, "long", (1,), {}, 3, 50_000)
    assert notebook.ended(3, "failed", (1,), {}) is None
    assert not notebook.open


def test_more_than_may_be_sent_is_left_out_and_counted(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five thousand tasks a second that print a page each must not fill the scheduler's link."""
    clock = [100.0]
    monkeypatch.setattr(notes_module, "monotonic", lambda: clock[0])
    notebook, told = Notebook(output=True, arguments=True), Told()
    for number in range(1, 200):
        task(number, lambda: notebook.printed("x" * 10_000))
    notebook.send([Result(number, 0) for number in range(1, 200)], told)
    (rows, left_out) = told.said[0][1]
    assert 90 < len(rows) < 100
    assert left_out == 199 - len(rows)
    task(200, lambda: notebook.printed("more" * 5_000))
    notebook.send([Result(200, 0)], told)
    assert len(told.said) == 1
    task(201, lambda: notebook.printed("later"))
    clock[0] += 1.0
    notebook.send([Result(201, 0)], told)
    assert [row[0] for row in told.said[1][1][0]] == ["k-201"]
    assert told.said[1][1][1] == 1


def test_notes_of_what_never_ends_stay_few(task: Any) -> None:
    """A thread that a task has left behind may print for ever."""
    notebook = Notebook(output=True, arguments=True)
    for number in range(1, 2 * OPEN_MOST):
        task(number, lambda: notebook.printed("x"))
    assert len(notebook.open) == OPEN_MOST
