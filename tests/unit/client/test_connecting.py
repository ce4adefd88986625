"""A client's life: connecting, losing the scheduler, closing."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from futurebroker.client.calls import Call, PreparedColumn
from futurebroker.client.client import Client
from futurebroker.client.futures import KeyState
from futurebroker.client.remembering import SLACK_CALLS, Remembered
from futurebroker.client.waiting import wait
from futurebroker.exceptions import (
    ClientClosedError,
    NoSchedulerError,
    RefusedError,
    SecretError,
)
from futurebroker.protocol import messages as m
from futurebroker.protocol.serialize import dump_failure, dumps, loads
from futurebroker.types import Peer
from tests.unit.client.scripted import SECRET, ScriptedScheduler, cut, finish_at_once


@pytest.fixture(autouse=True)
def no_other_client() -> Iterator[None]:
    """No default client is left over."""
    with pytest.raises(ValueError, match="no client"):
        Client.current()
    yield
    with pytest.raises(ValueError, match="no client"):
        Client.current()


def test_no_scheduler_is_an_error_within_the_timeout() -> None:
    """That names the address and how to start one."""
    with pytest.raises(NoSchedulerError, match="memory://nobody") as caught:
        Client("memory://nobody", timeout=0.1, secret=SECRET)
    assert "futurebroker scheduler" in str(caught.value)


def test_without_a_secret_it_says_where_to_put_one() -> None:
    """For another machine none is made up: it could not be the scheduler's."""
    with pytest.raises(SecretError, match="FUTUREBROKER_SECRET"):
        Client("scheduler.example:8786", timeout=0.1)


def test_arguments_of_a_cluster_need_a_cluster_to_start(scheduler: ScriptedScheduler) -> None:
    """A mistyped keyword must not be ignored."""
    with pytest.raises(TypeError, match="n_workers"):
        Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET, n_workers=2)


def test_a_refusal_is_raised(scheduler: ScriptedScheduler) -> None:
    """With the scheduler's reason."""

    def refuse(peer: Peer, message: Any) -> None:
        if isinstance(message, m.Hello):
            scheduler._endpoint.send_meeting(peer, message.inbox, m.Refused("Python 3.11 here, 3.12 there"))

    scheduler.meet = refuse  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match=r"3\.12"):
        Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET)


def test_the_current_client_is_the_last_that_is_open(scheduler: ScriptedScheduler, client: Client) -> None:
    """Or the one a `with` names."""
    assert Client.current() is client
    with Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET, set_as_default=False) as quiet:
        assert Client.current() is client
        with quiet.as_current():
            assert Client.current() is quiet
        assert Client.current() is client
    client.close()


def test_closing_cancels_what_is_pending(scheduler: ScriptedScheduler) -> None:
    """Threads that wait are let go; what is finished can still be read."""
    client = Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET)
    pending, finished = client.submit(len, "x"), client.submit(len, "y")
    scheduler.say(m.KeyFinished(finished.key, dumps(1), None, "int"))
    assert finished.result(5) == 1
    outcomes: list[BaseException | None] = []

    def waits() -> None:
        try:
            pending.result()
        except concurrent.futures.CancelledError as error:
            outcomes.append(error)

    thread = threading.Thread(target=waits)
    thread.start()
    client.close()
    thread.join(5)
    client.close()
    assert "closed" in str(outcomes[0])
    assert finished.result() == 1
    assert scheduler.wait_for(m.Goodbye)
    assert "closed" in repr(client)


def test_nothing_can_be_done_with_a_closed_client(scheduler: ScriptedScheduler) -> None:
    """Each call says so, instead of waiting for ever."""
    client = Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET)
    future = client.submit(len, "x")
    client.close()
    for call in (
        lambda: client.submit(len, "x"),
        lambda: client.submit(len, "x", key="k"),
        lambda: client.map(len, "ab"),
        lambda: client.scatter(1),
        lambda: client.nthreads(),
        lambda: client.run(len, "x"),
        lambda: client.submit(len, ["x"]),
        lambda: future.retry(),
        lambda: client.cancel([future]),
    ):
        with pytest.raises(ClientClosedError, match="closed"):
            call()


def test_a_callback_may_close_the_client(scheduler: ScriptedScheduler) -> None:
    """The thread it runs on can't wait for itself."""
    client = Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET)
    scheduler.script[m.Submit] = finish_at_once
    closed = threading.Event()

    def close(_: object) -> None:
        client.close()
        closed.set()

    client.submit(len, "x").add_done_callback(close)
    assert closed.wait(5)


def test_questions_that_wait_are_answered_when_the_client_closes(scheduler: ScriptedScheduler) -> None:
    """Else the threads that asked would hang."""
    client = Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET)
    errors: list[Exception] = []

    def asks() -> None:
        try:
            client.wait_for_workers(5)
        except ClientClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=asks)
    thread.start()
    scheduler.wait_for(m.Ask)
    client.close()
    thread.join(5)
    assert len(errors) == 1


def test_a_restarted_scheduler_is_sent_what_is_not_done_again(scheduler: ScriptedScheduler, client: Client) -> None:
    """It knows no call, no function and no result, but the client does, and its user need not notice."""
    first = client.submit(len, "x")
    middle = client.submit(len, first)
    last, held, done = client.submit(len, middle), client.submit(len, "y"), client.submit(len, "z")
    names = [one.key for one in (first, middle, last, held)]
    scheduler.say(m.KeyFinished(held.key, None, m.Held(held.key, 10, [("w", "/none")]), "int"))
    scheduler.say(m.KeyFinished(done.key, dumps(1), None, "int"))
    scheduler.wait_for_keys(5)
    assert done.result(5) == 1
    assert wait([held], 5).done
    del middle
    scheduler.wait_for(m.Release)
    scheduler.heard.clear()
    scheduler.restart(client)
    assert scheduler.wait_for_keys(4, 20) == names
    assert len(scheduler.wait_for(m.AddFunction)) == 1
    assert [(put.key, loads(put.value)) for put in scheduler.wait_for(m.PutValue)] == [(done.key, 1)]
    assert scheduler.wait_for(m.Release)[0].keys == [names[1]]
    scheduler.say(*(m.KeyFinished(key, dumps(key), None, "str") for key in (names[0], names[2], names[3])))
    assert client.gather([first, last, held]) == [names[0], names[2], names[3]]


def test_a_call_is_forgotten_once_nothing_open_depends_on_it() -> None:
    """A program that submits for days must not keep what is done, nor lose what is not."""
    states: dict[str, KeyState] = {}
    memory = Remembered(states.get, set())
    call = Call.of(len, None, "salt")
    count = 3 * SLACK_CALLS
    for number in range(count):
        if number % 100 == 99:
            states[f"k{number}"] = KeyState(f"k{number}", None, 1)  # type: ignore[arg-type]
        inputs = (f"k{number - 1}",) if number % 100 == 99 else ()
        memory.add(PreparedColumn(call, [f"k{number}"], [b"-"], 1, [inputs]))
        memory.tidy(1, number - number // 100)
    assert len(memory._items) < 2 * SLACK_CALLS
    again = list(memory.take(set())[0])
    assert again == [f"k{number}" for number in range(count) if number % 100 >= 98]


def test_a_cancellation_that_was_not_confirmed_is_sent_again(scheduler: ScriptedScheduler, client: Client) -> None:
    """Else what depends on the cancelled call would run, and the call with it."""
    first = client.submit(len, "x")
    second = client.submit(len, first)
    scheduler.wait_for_keys(2)
    first.cancel()
    scheduler.wait_for(m.Cancel)
    scheduler.heard.clear()
    scheduler.restart(client)
    assert scheduler.wait_for(m.Cancel, timeout=20)[0].keys == [first.key]
    assert scheduler.wait_for_keys(2) == [first.key, second.key]
    assert first.cancelled()


def test_futures_stay_pending_while_the_client_reconnects(scheduler: ScriptedScheduler, client: Client) -> None:
    """What was sent and what is sent meanwhile arrives, each once."""
    before = client.submit(len, "x")
    scheduler.wait_for_keys(1)
    cut(client)
    meanwhile = client.submit(len, "y")
    assert scheduler.wait_for_keys(2) == [before.key, meanwhile.key]
    scheduler.say(m.KeyFinished(before.key, dumps(1), None), m.KeyFinished(meanwhile.key, dumps(2), None))
    assert client.gather([before, meanwhile]) == [1, 2]
    assert len(scheduler.wait_for_keys(2)) == 2


def test_questions_get_answers_or_errors(scheduler: ScriptedScheduler, client: Client) -> None:
    """Each its own, by number."""
    future = client.submit(len, "x")
    told: list[Any] = []

    def answer(scripted: ScriptedScheduler, ask: m.Ask) -> None:
        told.append((ask.topic, ask.about))
        scripted.say(m.Answer(ask.number, {"w": 2}, "no such worker" if ask.topic == "has_what" else ""))

    scheduler.script[m.Ask] = answer
    assert client.nthreads() == client.ncores() == {"w": 2}
    assert client.who_has([future]) == {"w": 2}
    assert client.why(future) == client.why(future.key)
    assert client.processing("alice") == client.scheduler_info() == client.nbytes() == {"w": 2}
    with pytest.raises(Exception, match="no such worker"):
        client.has_what()
    assert told == [
        ("nthreads", None),
        ("nthreads", None),
        ("who_has", [future.key]),
        ("why", future.key),
        ("why", future.key),
        ("processing", ["alice"]),
        ("scheduler_info", None),
        ("nbytes", None),
        ("has_what", None),
    ]
    scheduler.script.clear()
    with pytest.raises(TimeoutError):
        client.wait_for_workers(3, timeout=0.01)


def test_a_function_runs_on_workers(scheduler: ScriptedScheduler, client: Client) -> None:
    """What it raises on one is raised, returned or left out."""
    failure = dump_failure(ZeroDivisionError("no"), "", "w2")
    scheduler.script[m.RunOnWorkers] = lambda s, run: s.say(
        m.RanOnWorkers(run.number, {"w1": (dumps(5), None), "w2": (None, failure)})
    )
    with pytest.raises(ZeroDivisionError):
        client.run(len, "x")
    assert client.run(len, "x", on_error="ignore") == {"w1": 5}
    assert isinstance(client.run(len, "x", on_error="return", workers="w")["w2"], ZeroDivisionError)
    assert client.run(len, "x", wait=False) is None
    asked = scheduler.wait_for(m.RunOnWorkers, 4)
    assert [(run.workers, run.wait) for run in asked] == [((), True), ((), True), (("w",), True), ((), False)]


def test_cancel_takes_many_and_says_why(scheduler: ScriptedScheduler, client: Client) -> None:
    """In one message, and here at once."""
    futures = client.map(len, "abc")
    client.cancel(futures, force=True, reason="enough")
    assert all(future.cancelled() for future in futures)
    (cancel,) = scheduler.wait_for(m.Cancel)
    assert (cancel.keys, cancel.force, cancel.reason) == ([future.key for future in futures], True, "enough")
    with pytest.raises(TypeError, match="expected a future"):
        client.cancel([5])


def test_a_client_tells_of_itself(scheduler: ScriptedScheduler, client: Client) -> None:
    """In a terminal and in a notebook."""
    assert scheduler.url in repr(client)
    assert client.id in client._repr_html_()
    assert client.id == scheduler.client
