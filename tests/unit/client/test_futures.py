"""Futures: their results, errors and ends, as `concurrent.futures` and dask.distributed have them."""

from __future__ import annotations

import concurrent.futures
import gc
import pickle
import threading
import traceback
import weakref
from typing import Any

import pytest

import futurebroker
from futurebroker.client.client import Client
from futurebroker.client.futures import Future
from futurebroker.exceptions import CancelledError, DataLostError, DuplicateKeyError, IntakeError, ResultError
from futurebroker.protocol import messages as m
from futurebroker.protocol.serialize import dump_failure, dumps
from tests.unit.client.scripted import SECRET, ScriptedScheduler, finish_at_once


class OddError(Exception):
    """An exception of the user's."""


def users_own_line() -> None:
    raise OddError("the user's own words")


def a_failure(key: str) -> m.Failure:
    try:
        users_own_line()
    except OddError as error:
        return dump_failure(error, key, "w")
    raise AssertionError


def finish(scheduler: ScriptedScheduler, future: Future[Any], value: Any) -> None:
    scheduler.say(m.KeyFinished(future.key, dumps(value), None, type(value).__name__))


def test_a_future_has_all_that_concurrent_futures_has() -> None:
    """So that code written for those works; setting results is the scheduler's."""
    theirs = {name for name in dir(concurrent.futures.Future) if not name.startswith("_")}
    assert theirs - set(dir(Future)) == {"set_result", "set_exception", "set_running_or_notify_cancel"}


def test_a_result_arrives_once_and_stays(scheduler: ScriptedScheduler, client: Client) -> None:
    """Asking again gives the same object, as in concurrent.futures."""
    future = client.submit(len, "x")
    assert (future.status, future.done(), future.running(), future.type) == ("pending", False, False, None)
    finish(scheduler, future, [1])
    assert future.result(5) == [1]
    assert future.result() is future.result()
    assert (future.status, future.done(), future.type, future.exception()) == ("finished", True, "list", None)


def test_a_timeout_leaves_the_task_alone(scheduler: ScriptedScheduler, client: Client) -> None:
    """TimeoutError is the builtin one; the result can be asked for again."""
    future = client.submit(len, "x")
    with pytest.raises(TimeoutError, match=future.key):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0)
    assert future._state.waiters is None
    finish(scheduler, future, 1)
    assert future.result(5) == 1


def test_an_error_is_raised_with_the_users_own_lines(scheduler: ScriptedScheduler, client: Client) -> None:
    """Each time anew, so that the traceback doesn't grow."""
    future = client.submit(len, "x")
    scheduler.say(m.KeyErred(future.key, a_failure(future.key)))
    depths = []
    for _ in range(3):
        with pytest.raises(OddError, match="own words") as caught:
            future.result(5)
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
        assert "users_own_line" in "".join(traceback.format_exception(caught.value))
    assert len(set(depths)) == 1
    assert depths[0] <= 6
    assert future.status == "error"
    assert isinstance(future.exception(), OddError)
    assert "users_own_line" in "".join(traceback.format_tb(future.traceback()))


def test_a_result_that_cant_be_opened_says_why(scheduler: ScriptedScheduler, client: Client) -> None:
    """A class that this program doesn't have must not look like a bug in the program."""
    future = client.submit(len, "x")
    scheduler.say(m.KeyFinished(future.key, b"cno_such_module\nThing\n.", None, "Thing"))
    with pytest.raises(ResultError, match="no_such_module"):
        future.result(5)


def test_a_cancelled_future_is_cancelled_at_once(scheduler: ScriptedScheduler, client: Client) -> None:
    """Whatever the scheduler says later; and what waited is let go."""
    future = client.submit(len, "x")
    outcomes: list[BaseException] = []

    def waits() -> None:
        try:
            future.result()
        except CancelledError as error:
            outcomes.append(error)

    thread = threading.Thread(target=waits)
    thread.start()
    assert future.cancel(reason="not wanted")
    thread.join()
    assert (future.status, future.cancelled(), future.done()) == ("cancelled", True, True)
    assert "not wanted" in str(outcomes[0])
    (cancel,) = scheduler.wait_for(m.Cancel)
    assert (cancel.keys, cancel.reason) == ([future.key], "not wanted")
    finish(scheduler, future, 5)
    other = client.submit(len, "y")
    finish(scheduler, other, 6)
    assert other.result(5) == 6
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


def test_a_cancelled_key_can_be_submitted_again(scheduler: ScriptedScheduler, client: Client) -> None:
    """The scheduler's answer to the cancellation, which comes late, is not about the new task."""
    scheduler.script[m.Cancel] = lambda s, cancel: s.say(*(m.KeyCancelled(key) for key in cancel.keys))
    scheduler.script[m.Ask] = lambda s, ask: s.say(m.Answer(ask.number))
    old = client.submit(len, "x", key="k")
    old.cancel()
    client.cancel([old])
    new = client.submit(len, "x", key="k")
    client.nthreads()
    assert (old.status, new.status) == ("cancelled", "pending")
    finish(scheduler, new, 1)
    assert new.result(5) == 1
    assert len(scheduler.wait_for(m.Cancel)) == 1


def test_a_finished_future_cant_be_cancelled(scheduler: ScriptedScheduler, client: Client) -> None:
    """As PEP 3148 says."""
    future = client.submit(len, "x")
    finish(scheduler, future, 1)
    assert future.result(5) == 1
    assert not future.cancel()
    assert future.result() == 1


@pytest.mark.parametrize(
    ("kind", "error", "status"),
    [
        ("cancelled", CancelledError, "cancelled"),
        ("lost", DataLostError, "cancelled"),
        ("rejected", IntakeError, "error"),
        ("duplicate", DuplicateKeyError, "error"),
    ],
)
def test_the_scheduler_gives_a_key_up(
    scheduler: ScriptedScheduler, client: Client, kind: str, error: type[Exception], status: str
) -> None:
    """With a reason, which is what the user sees."""
    future = client.submit(len, "x")
    scheduler.say(m.KeyCancelled(future.key, "for this reason", kind))
    with pytest.raises(error, match="for this reason"):
        future.result(5)
    assert future.status == status


def test_the_last_future_of_a_key_releases_it(scheduler: ScriptedScheduler, client: Client) -> None:
    """Deleting is all a user does; several go in one message."""
    a = client.submit(len, "x", key="k")
    b = client.submit(len, "x", key="k")
    c = client.submit(len, "x", key="other")
    scheduler.wait_for_keys(2)
    a.release()
    a.release()
    del b, c
    gc.collect()
    released = [key for message in scheduler.wait_for(m.Release) for key in message.keys]
    while len(released) < 2:
        released = [key for message in scheduler.wait_for(m.Release, 2) for key in message.keys]
    assert sorted(released) == ["k", "other"]


def test_waiting_for_a_released_future_ends(scheduler: ScriptedScheduler, client: Client) -> None:
    """Nothing will ever arrive for it."""
    future = client.submit(len, "x")
    future.release()
    with pytest.raises(CancelledError, match="released"):
        future.result(5)


def test_an_unpickled_future_is_the_current_clients(scheduler: ScriptedScheduler, client: Client) -> None:
    """Futures come back in results of tasks, out of queues and published data; they must be of use there."""
    future = client.submit(len, "x")
    copy = pickle.loads(pickle.dumps(future))
    assert (copy.key, copy.status) == (future.key, "pending")
    scheduler.say(m.KeyFinished(future.key, pickle.dumps(1), None, "int"))
    assert copy.result(5) == 1
    strange = pickle.loads(pickle.dumps(future).replace(future.key.encode(), b"x" * len(future.key)))
    scheduler.say(m.KeyFinished(strange.key, pickle.dumps(3), None, "int"))
    assert strange.result(5) == 3


def test_an_unpickled_future_without_any_client_says_what_to_do(scheduler: ScriptedScheduler) -> None:
    """In a program that has no client it is but a name."""
    with Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET) as client:
        future = client.submit(len, "x")
        text = pickle.dumps(future)
    copy = pickle.loads(text)
    with pytest.raises(RuntimeError, match="arguments of a task"):
        copy.result()


def test_callbacks_run_in_the_order_of_completion(scheduler: ScriptedScheduler, client: Client) -> None:
    """On one thread that isn't the user's; one that raises doesn't stop the others."""
    futures = client.map(len, ["a", "b", "c"])
    calls: list[Any] = []
    done = threading.Event()

    def note(future: Future[Any]) -> None:
        calls.append((future.result(), threading.current_thread().name))
        if len(calls) == 2:
            raise OddError
        if len(calls) == 4:
            done.set()

    for future in futures:
        future.add_done_callback(note)
    for future in reversed(futures):
        finish(scheduler, future, future.key)
    assert client.gather(futures)
    futures[0].add_done_callback(note)
    assert done.wait(5)
    assert [key for key, _ in calls] == [*(future.key for future in reversed(futures)), futures[0].key]
    assert len({name for _, name in calls}) == 1
    assert threading.current_thread().name not in calls[0]


def test_a_callback_may_submit_and_wait(scheduler: ScriptedScheduler, client: Client) -> None:
    """It doesn't run on the thread that takes results in."""
    scheduler.script[m.Submit] = finish_at_once
    got: list[str] = []
    done = threading.Event()

    def again(_: Future[Any]) -> None:
        got.append(client.submit(len, "y", key="second").result(5))
        done.set()

    client.submit(len, "x").add_done_callback(again)
    assert done.wait(5)
    assert got == ["second"]


def test_a_lost_result_is_waited_for_again(scheduler: ScriptedScheduler, client: Client) -> None:
    """The scheduler computes it again; the user sees nothing but time."""
    future = client.submit(len, "x")
    scheduler.say(m.KeyFinished(future.key, None, m.Held(future.key, 10, []), "int"), m.KeyLost(future.key))
    scheduler.script[m.Ask] = lambda s, ask: s.say(m.Answer(ask.number))
    client.nthreads()
    assert (future.status, future.done()) == ("lost", False)
    finish(scheduler, future, 3)
    assert future.result(5) == 3


def test_retry_makes_a_failed_future_pending(scheduler: ScriptedScheduler, client: Client) -> None:
    """And then it may finish after all."""
    future = client.submit(len, "x")
    scheduler.say(m.KeyErred(future.key, a_failure(future.key)))
    assert isinstance(future.exception(5), OddError)
    future.retry()
    assert future.status == "pending"
    assert [message.keys for message in scheduler.wait_for(m.Retry)] == [[future.key]]
    finish(scheduler, future, 3)
    assert future.result(5) == 3


def test_a_future_tells_of_itself(scheduler: ScriptedScheduler, client: Client) -> None:
    """In a terminal and in a notebook, where a key must not become markup."""
    future = client.submit(len, "x", key="<b>-1")
    assert repr(future) == "<Future: pending, key: <b>-1>"
    assert "&lt;b&gt;-1" in future._repr_html_()
    finish(scheduler, future, 1)
    future.result(5)
    assert repr(future) == "<Future: finished, type: int, key: <b>-1>"


def test_gather_keeps_the_shape(scheduler: ScriptedScheduler, client: Client) -> None:
    """Any nesting; what isn't a future stays."""
    a, b = client.submit(len, "x"), client.submit(len, "y")
    finish(scheduler, a, 1)
    finish(scheduler, b, 2)
    assert client.gather({"l": [a, b, 5], "t": (a,), "s": {a}, "d": {"b": b}}) == {
        "l": [1, 2, 5],
        "t": (1,),
        "s": {1},
        "d": {"b": 2},
    }
    assert client.gather(a) == 1
    assert client.gather([]) == []
    assert client.gather(iter([a, b])) == [1, 2]
    assert client.gather([a, a]) == [1, 1]


def test_gather_raises_the_first_error_or_skips(scheduler: ScriptedScheduler, client: Client) -> None:
    """Without waiting for what can't matter any more."""
    a, b, never = client.submit(len, "x"), client.submit(len, "y"), client.submit(len, "z")
    finish(scheduler, a, 1)
    scheduler.say(m.KeyErred(b.key, a_failure(b.key)))
    with pytest.raises(OddError):
        client.gather([a, never, b])
    assert client.gather([a, b], errors="skip") == [1]
    assert client.gather({"a": a, "b": b}, errors="skip") == {"a": 1}
    with pytest.raises(ValueError, match="errors="):
        client.gather([a], errors="none")


def test_timeout_error_is_the_builtin() -> None:
    """Whoever imports it from here gets the one that is raised."""
    assert futurebroker.TimeoutError is TimeoutError


def test_a_result_that_holds_its_own_future_goes_with_the_client(scheduler: ScriptedScheduler) -> None:
    """The garbage collector sees a key's state once it holds something that can be part of a circle."""
    client = Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET)
    future = client.submit(len, "x")
    assert not gc.is_tracked(future._state)
    finish(scheduler, future, [1])
    result = future.result(5)
    result.append(future)
    gone = weakref.ref(future)
    client.close()
    del future, result
    gc.collect()
    assert gone() is None


def test_a_closed_client_is_collected_with_its_futures(scheduler: ScriptedScheduler) -> None:
    """Keys and connection refer to each other, which the collector can't see; closing ends that."""
    client = Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET)
    future = client.submit(len, "x")
    gone = weakref.ref(client._connection)
    client.close()
    del client
    gc.collect()
    assert future.cancelled()
    assert gone() is not None
    del future
    gc.collect()
    assert gone() is None
