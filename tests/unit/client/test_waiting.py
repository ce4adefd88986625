"""`wait`, `as_completed`, `fire_and_forget` and `progress`."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from futurebroker.client.client import Client
from futurebroker.client.futures import Future
from futurebroker.client.progress import NotebookBar, Tally, TerminalBar, bars, lines, progress
from futurebroker.client.waiting import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    as_completed,
    fire_and_forget,
    wait,
)
from futurebroker.exceptions import CancelledError
from futurebroker.protocol import messages as m
from futurebroker.protocol.serialize import dump_failure, dumps
from tests.unit.client.scripted import SECRET, ScriptedScheduler, finish_at_once


class Terminal(io.StringIO):
    """Output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def finish(scheduler: ScriptedScheduler, *futures: Future[Any]) -> None:
    scheduler.say(*(m.KeyFinished(future.key, dumps(future.key), None, "str") for future in futures))


def fail(scheduler: ScriptedScheduler, future: Future[Any]) -> None:
    scheduler.say(m.KeyErred(future.key, dump_failure(ZeroDivisionError("no"), future.key, "w")))


def test_wait_returns_what_is_done_and_what_is_not(scheduler: ScriptedScheduler, client: Client) -> None:
    """Once one is, with FIRST_COMPLETED."""
    a, b = client.map(len, ["a", "b"])
    finish(scheduler, b)
    assert wait([a, b], 5, FIRST_COMPLETED) == ({b}, {a})
    with pytest.raises(TimeoutError, match="1 of 2"):
        wait([a, b], 0.01)
    finish(scheduler, a)
    assert wait([a, b]).done == {a, b}
    assert wait([]) == (set(), set())


def test_wait_ends_at_the_first_exception(scheduler: ScriptedScheduler, client: Client) -> None:
    """Which counts as done and is not raised."""
    a, b, c = client.map(len, "abc")
    finish(scheduler, a)
    fail(scheduler, b)
    done, not_done = wait([a, b, c], 5, FIRST_EXCEPTION)
    assert (done, not_done) == ({a, b}, {c})


def test_wait_raises_for_a_cancelled_future(client: Client) -> None:
    """As in dask.distributed: its result can never come."""
    a, b = client.map(len, "ab")
    a.cancel()
    with pytest.raises(CancelledError, match=a.key):
        wait([a, b], 5)


def test_wait_with_two_futures_as_arguments_is_a_mistake(client: Client) -> None:
    """The second argument is the timeout."""
    a, b = client.map(len, "ab")
    with pytest.raises(TypeError, match="one list"):
        wait(a, b)  # type: ignore[arg-type]


def test_wait_takes_futures_of_several_clients(scheduler: ScriptedScheduler, client: Client) -> None:
    """They need not share a scheduler."""
    with (
        ScriptedScheduler() as elsewhere,
        Client(elsewhere.url, cluster=elsewhere.cluster, secret=SECRET) as other,
    ):
        elsewhere.script[m.Submit] = scheduler.script[m.Submit] = finish_at_once
        a, b = client.submit(len, "a"), other.submit(len, "b")
        assert wait([a, b], 5).done == {a, b}


def test_futures_come_as_they_are_completed(scheduler: ScriptedScheduler, client: Client) -> None:
    """Each as often as it was added; failed and cancelled ones too."""
    a, b, c = client.map(len, "abc")
    completed = as_completed([a, b, c, a])
    finish(scheduler, b)
    assert next(completed) is b
    fail(scheduler, c)
    assert next(completed) is c
    a.cancel()
    assert list(completed) == [a, a]
    assert completed.is_empty()


def test_futures_may_be_added_on_the_way(scheduler: ScriptedScheduler, client: Client) -> None:
    """The idiom of a search: what comes out decides what goes in."""
    scheduler.script[m.Submit] = finish_at_once
    completed = as_completed([client.submit(len, "x")])
    seen = 0
    for _ in completed:
        seen += 1
        if seen < 10:
            completed.add(client.submit(len, "x"))
        if seen == 10:
            completed.update(client.map(len, "ab"))
    assert seen == 12


def test_results_come_with_their_futures(scheduler: ScriptedScheduler, client: Client) -> None:
    """Or the errors in their place, if they are not to be raised."""
    a, b = client.map(len, "ab")
    finish(scheduler, a)
    fail(scheduler, b)
    wait([a, b], 5)
    pairs = dict(as_completed([a, b], with_results=True, raise_errors=False))
    assert pairs[a] == a.key
    assert isinstance(pairs[b], ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        list(as_completed([a, b], with_results=True))


def test_batches_hold_all_that_is_ready(scheduler: ScriptedScheduler, client: Client) -> None:
    """Who handles many at once is not slowed down by many calls."""
    futures = client.map(len, "abcd")
    completed = as_completed(futures)
    finish(scheduler, *futures[:3])
    wait(futures[:3], 5)
    assert completed.has_ready()
    assert sorted(f.key for f in completed.next_batch()) == sorted(f.key for f in futures[:3])
    assert completed.next_batch(block=False) == []
    assert completed.count() == 1
    finish(scheduler, futures[3])
    assert list(completed.batches()) == [[futures[3]]]
    with pytest.raises(StopIteration):
        next(completed)


def test_as_completed_times_out_from_its_construction(client: Client) -> None:
    """Time spent between two items counts."""
    with pytest.raises(TimeoutError, match="1 futures"):
        next(as_completed([client.submit(len, "x")], timeout=0.01))


def test_clearing_ends_the_iteration(client: Client) -> None:
    """For a search that has found what it looked for."""
    completed = as_completed(client.map(len, "abc"))
    completed.clear()
    assert list(completed) == []


def test_fire_and_forget_detaches_before_the_release(scheduler: ScriptedScheduler, client: Client) -> None:
    """In this order, or the task would be dropped."""
    fire_and_forget([client.submit(len, "x", key="k")])
    scheduler.wait_for(m.Release)
    kinds = [type(message) for message in scheduler.heard]
    assert kinds[-3:] == [m.Submit, m.Detach, m.Release]


def test_progress_draws_nothing_outside_a_terminal(scheduler: ScriptedScheduler, client: Client) -> None:
    """A log file full of bars helps nobody; it waits all the same."""
    scheduler.script[m.Submit] = finish_at_once
    futures = client.map(len, "abc")
    output = io.StringIO()
    progress(futures, file=output)
    assert output.getvalue() == ""
    assert all(future.done() for future in futures)


def test_progress_draws_a_bar_until_all_are_done(scheduler: ScriptedScheduler, client: Client) -> None:
    """Failed ones are done too, and are counted."""
    a, b = client.map(len, "ab")
    output = Terminal()
    thread = threading.Thread(target=progress, args=([a, b],), kwargs={"file": output})
    thread.start()
    finish(scheduler, a)
    fail(scheduler, b)
    thread.join(5)
    assert not thread.is_alive()
    last = output.getvalue().rpartition("\r")[2]
    assert "100% | 2 of 2" in last
    assert "1 failed" in last
    assert last.endswith("\n")


def test_a_bar_fits_its_line(client: Client) -> None:
    """A line that wraps can't be drawn over."""
    tally = Tally([future._state for future in client.map(len, "abcd")])
    tally.finished["len"] = 1
    [wide] = lines(tally, 79, 20)
    assert len(wide) <= 79
    assert wide.startswith("[##########  ")
    assert len(lines(tally, 10, 20)[0]) <= 10
    assert lines(Tally([]), 79, 20)[0].endswith("0 of 0 | 0.0 s")


def test_several_functions_have_a_bar_each_in_place(client: Client) -> None:
    """Which of them the time goes to is what one wants to know; the lines neither jump nor pile up."""
    futures = [client.submit(len, "x"), *client.map(str, range(3))]
    tally = Tally([future._state for future in futures])
    output = Terminal()
    bar = TerminalBar(output)
    bar.draw(tally)
    first = output.getvalue()
    tally.finished["str"] = 2
    bar.draw(tally)
    second = output.getvalue()[len(first) :]
    assert second.startswith("\r\x1b[2A\x1b[K[####")
    total, most, least = second.split("\n")
    assert "2 of 4" in total
    assert most.endswith("2 of 3 | str")
    assert least.endswith("0 of 1 | len")
    assert len(lines(tally, 79, 2)) == 2


def test_a_notebook_gets_one_bar_a_function_that_changes_in_place(client: Client) -> None:
    """Names of functions are text, not markup."""
    shown: list[Any] = []

    class Handle:
        def update(self, content: Any, raw: bool) -> None:
            shown.append(("update", content))

    def display(content: Any, raw: bool, display_id: bool) -> Handle:
        shown.append(("display", content))
        return Handle()

    tally = Tally([client.submit(len, "x", key="<i>-1")._state, client.submit(len, "y")._state])
    bar = NotebookBar(display)
    bar.draw(tally)
    tally.finished["len"] += 1
    bar.draw(tally)
    assert [kind for kind, _ in shown] == ["display", "update"]
    assert "&lt;i&gt;" in bars(tally)
    assert "1 of 1" in shown[1][1]["text/html"]
