"""What a call becomes on its way to the scheduler."""

from __future__ import annotations

import threading
import time
import warnings
from collections import namedtuple
from collections.abc import Callable
from operator import add
from typing import Any

import pytest

from futurebroker.client import outbox
from futurebroker.client.client import Client
from futurebroker.client.waiting import wait
from futurebroker.exceptions import CancelledError, IntakeError, MessageTooLargeError, SerializationError
from futurebroker.protocol import messages as m
from futurebroker.protocol.refs import open_arguments
from futurebroker.protocol.serialize import dumps, loads
from futurebroker.protocol.wire import BATCH_MESSAGES
from tests.unit.client.scripted import SECRET, ScriptedScheduler, finish_at_once

Pair = namedtuple("Pair", "left right")


def inc(x: int) -> int:
    return x + 1


def keywords(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def opened(submit: m.Submit, index: int = 0, inputs: tuple[Any, ...] = ()) -> Any:
    """The arguments as the executor sees them."""
    return open_arguments(loads, submit.args[index], inputs)


def test_a_burst_of_calls_leaves_in_few_messages(scheduler: ScriptedScheduler, client: Client) -> None:
    """A message a call would cost ten times what the call costs."""
    futures = [client.submit(inc, i) for i in range(2000)]
    keys = scheduler.wait_for_keys(2000)
    assert keys == [future.key for future in futures]
    assert len(scheduler.wait_for(m.Submit)) < 100
    assert len(scheduler.wait_for(m.AddFunction)) == 1


def test_keys_begin_with_the_name_of_the_function(scheduler: ScriptedScheduler, client: Client) -> None:
    """Progress bars group by it, and people read it."""
    a, b = client.submit(inc, 1), client.submit(inc, 1)
    assert a.key.startswith("inc-")
    assert a.key != b.key
    assert client.submit(lambda: 1).key.startswith("lambda-")


def test_calls_with_equal_options_share_a_message(scheduler: ScriptedScheduler, client: Client) -> None:
    """The columns of a Submit hold one function and one set of options."""
    futures = client.map(inc, range(10), priority=3, workers="alice")
    scheduler.wait_for_keys(10)
    submits = scheduler.wait_for(m.Submit)
    assert {submit.options for submit in submits} == {m.TaskOptions(workers=("alice",), priority=3)}
    assert len(submits) < len(futures) == 10


@pytest.mark.parametrize("container", [list, tuple, set, frozenset])
def test_futures_in_containers_become_references(
    scheduler: ScriptedScheduler, client: Client, container: type[Any]
) -> None:
    """The task gets the results, in a container of the same type."""
    a = client.submit(inc, 1)
    b = client.submit(sum, container([a, 5]))
    scheduler.wait_for_keys(2)
    submit = scheduler.wait_for(m.Submit, 2)[-1]
    assert submit.dependencies == [(a.key,)]
    assert opened(submit, inputs=(2,)) == ((container([2, 5]),), {})
    assert b.status == "pending"


def test_futures_are_found_in_nested_dicts_and_named_tuples(scheduler: ScriptedScheduler, client: Client) -> None:
    """Values only: a future as a key of a dict would be another key afterwards."""
    a, b = client.submit(inc, 1), client.submit(inc, 2)
    c = client.submit(keywords, deep={"x": [Pair(a, (b, a))], "y": 1})
    scheduler.wait_for_keys(3)
    submit = scheduler.wait_for(m.Submit, 2)[-1]
    assert submit.dependencies == [(a.key, b.key)]
    assert opened(submit, inputs=("A", "B")) == ((), {"deep": {"x": [Pair("A", ("B", "A"))], "y": 1}})
    assert not c.done()


def test_text_that_equals_a_key_stays_text(scheduler: ScriptedScheduler, client: Client) -> None:
    """Only futures are dependencies."""
    client.submit(inc, 1, key="x")
    future = client.submit(add, "x", ["x"])
    scheduler.wait_for_keys(2)
    submit = scheduler.wait_for(m.Submit, 2)[-1]
    assert submit.dependencies is None
    assert opened(submit) == (("x", ["x"]), {})
    assert not future.done()


def test_a_list_that_contains_itself_is_passed_on(scheduler: ScriptedScheduler, client: Client) -> None:
    """The search for futures must end."""
    endless: list[Any] = [[1]]
    endless.append(endless)
    future = client.submit(len, endless)
    scheduler.wait_for_keys(1)
    assert not future.done()


def test_a_future_of_another_client_is_refused(scheduler: ScriptedScheduler, client: Client) -> None:
    """Its scheduler may be another one."""
    with (
        ScriptedScheduler() as elsewhere,
        Client(elsewhere.url, cluster=elsewhere.cluster, secret=SECRET, set_as_default=False) as other,
    ):
        foreign = other.submit(inc, 1)
        with pytest.raises(ValueError, match="another client"):
            client.submit(inc, foreign)
        with pytest.raises(ValueError, match="another client"):
            client.gather([foreign])


def test_a_cancelled_future_is_refused_as_an_argument(client: Client) -> None:
    """The call could never run."""
    future = client.submit(inc, 1)
    future.cancel()
    with pytest.raises(CancelledError, match=future.key):
        client.submit(inc, future)


def test_a_known_key_gives_the_same_result(scheduler: ScriptedScheduler, client: Client) -> None:
    """Two futures of one key share one task and one state."""
    a = client.submit(inc, 1, key="mine")
    b = client.submit(inc, 2, key="mine")
    scheduler.wait_for_keys(1)
    scheduler.say(m.KeyFinished("mine", dumps(2), None, "int"))
    assert (a.result(5), b.result(5)) == (2, 2)
    assert a != b
    assert [key for submit in scheduler.wait_for(m.Submit) for key in submit.keys] == ["mine"]


def test_pure_calls_with_equal_arguments_have_one_key(client: Client) -> None:
    """So they run once; impure ones, the default, run each."""
    a = client.submit(add, 1, 2, pure=True)
    assert client.submit(add, 1, 2, pure=True).key == a.key
    assert client.submit(add, 1, 3, pure=True).key != a.key
    assert client.submit(add, 1, 2).key != a.key
    x, y = client.submit(inc, 1), client.submit(inc, 2)
    assert client.submit(inc, x, pure=True).key != client.submit(inc, y, pure=True).key


def test_a_released_key_can_be_submitted_again(scheduler: ScriptedScheduler, client: Client) -> None:
    """The release of the old one leaves before the new one, or the new one would be released."""
    for _ in range(50):
        client.submit(inc, 1, key="again").release()
    last = client.submit(inc, 1, key="again")
    client.submit(inc, 1, key="end")
    scheduler.wait_for_keys(2)
    scheduler.wait_for_keys(2)
    while "end" not in [key for s in scheduler.wait_for(m.Submit) for key in s.keys]:
        scheduler.wait_for(m.Submit, len(scheduler.wait_for(m.Submit)) + 1)
    story = [
        message for message in scheduler.heard if isinstance(message, (m.Submit, m.Release)) and "again" in message.keys
    ]
    kinds = [type(message) for message in story]
    assert kinds[-1] is m.Submit
    assert last.status == "pending"


def test_options_leave_all_keywords_to_the_function(scheduler: ScriptedScheduler, client: Client) -> None:
    """A function may have a keyword that is called as one of ours."""
    calls = client.options(retries=2, key="task")
    future = calls.submit(keywords, key=1, workers=2, retries=3, priority=4, pure=5, resources=6)
    scheduler.wait_for_keys(1)
    (submit,) = scheduler.wait_for(m.Submit)
    assert (future.key, submit.options.retries) == ("task", 2)
    assert opened(submit) == ((), {"key": 1, "workers": 2, "retries": 3, "priority": 4, "pure": 5, "resources": 6})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"retries": -1}, "retries"),
        ({"priority": 1.5}, "priority"),
        ({"workers": [1]}, "workers"),
        ({"resources": {"GPU": -1}}, "resources"),
        ({"allow_other_workers": True}, "allow_other_workers"),
        ({"key": 5}, "key"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(client: Client, options: dict[str, Any], name: str) -> None:
    """A mistake should be told where it is made."""
    with pytest.raises((TypeError, ValueError), match=name):
        client.submit(inc, 1, **options)


def test_map_stops_at_the_shortest_and_takes_iterators(scheduler: ScriptedScheduler, client: Client) -> None:
    """As the builtin map does."""
    assert len(client.map(add, iter(range(100)), (n for n in range(7)))) == 7
    assert client.map(inc, []) == []
    assert [future.key for future in client.map(inc, [1, 2], key=["a", "b"])] == ["a", "b"]
    assert all(future.key.startswith("mine-") for future in client.map(inc, [1, 2], key="mine"))


@pytest.mark.parametrize("number", [0, -1, 1, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**80, True])
def test_numbers_arrive_as_they_are(scheduler: ScriptedScheduler, client: Client, number: int) -> None:
    """Those of 32 bits are packed without a pickler, the others with one."""
    futures = [client.submit(inc, number), *client.map(inc, [number, 5]), *client.map(add, [number], [1.5])]
    scheduler.wait_for_keys(4)
    arguments = [loads(one) for submit in scheduler.wait_for(m.Submit) for one in submit.args]
    assert arguments == [((number,), {}), ((number,), {}), ((5,), {}), ((number, 1.5), {})]
    assert type(arguments[0][0][0]) is type(arguments[1][0][0]) is type(number)
    del futures


def test_a_map_of_plain_and_other_arguments_keeps_its_order(scheduler: ScriptedScheduler, client: Client) -> None:
    """Plain ones go in columns, the others one by one; both arrive as they were given."""
    inputs: list[Any] = [*range(20), [1], *range(100), "x" * 40_000, {"a": 1}, *range(700)]
    futures = client.map(len, inputs)
    keys = scheduler.wait_for_keys(len(inputs))
    assert keys == [future.key for future in futures]
    arguments = [loads(one) for submit in scheduler.wait_for(m.Submit) for one in submit.args]
    assert arguments == [((value,), {}) for value in inputs]
    assert max(len(submit.keys) for submit in scheduler.wait_for(m.Submit)) <= BATCH_MESSAGES


def test_chunks_make_one_task_of_many_calls(scheduler: ScriptedScheduler, client: Client) -> None:
    """Each call has its future all the same."""
    futures = client.map(add, range(5), range(5), chunksize=2)
    keys = scheduler.wait_for_keys(3)
    assert (len(keys), len(futures)) == (3, 5)
    for key, results in zip(keys, ([0, 2], [4, 6], [8])):
        scheduler.say(m.KeyFinished(key, dumps(results), None, "list"))
    assert client.gather(futures) == [0, 2, 4, 6, 8]
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8]


def test_part_of_a_chunk_is_an_argument_like_others(scheduler: ScriptedScheduler, client: Client) -> None:
    """A task of its own picks it out of the chunk."""
    futures = client.map(add, range(4), range(4), chunksize=4)
    client.submit(inc, futures[2])
    chunk, picked, call = scheduler.wait_for_keys(3)
    submits = scheduler.wait_for(m.Submit, 3)
    assert submits[1].dependencies == [(chunk,)]
    assert opened(submits[1], inputs=([0, 2, 4, 6],)) == (([0, 2, 4, 6], 2), {})
    assert submits[2].dependencies == [(picked,)]
    assert call.startswith("inc-")


def test_what_cant_be_pickled_is_named(client: Client) -> None:
    """At submit, not later on a worker."""
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="argument 2 of inc"):
        client.submit(inc, 1, [lock])
    with pytest.raises(SerializationError, match="argument y= of inc"):
        client.submit(inc, 1, y=lock)
    with pytest.raises(SerializationError, match="function lambda"):
        client.submit(lambda: lock)
    with pytest.raises(TypeError, match="callable"):
        client.submit(5)  # type: ignore[arg-type]


def test_a_function_with_too_much_in_it_is_refused(client: Client) -> None:
    """It would travel to every worker with each version of it."""
    ballast = bytes(5_000_000)
    with pytest.raises(MessageTooLargeError, match="closes over"):
        client.submit(lambda: ballast)


def test_a_large_argument_becomes_data_once(scheduler: ScriptedScheduler, client: Client) -> None:
    """The same bytes are stored once, however often they are passed; the third time the user is told."""
    scheduler.script[m.Ask] = lambda s, ask: s.say(m.Answer(ask.number, 1))
    scheduler.script[m.PutFile] = lambda s, put: s.say(
        m.KeyFinished(put.key, None, m.Held(put.key, put.nbytes, [("w", put.path)]))
    )
    big = bytes(200_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        futures = [client.submit(len, big) for _ in range(5)]
    scheduler.wait_for_keys(5)
    (put,) = scheduler.wait_for(m.PutFile)
    assert {names for s in scheduler.wait_for(m.Submit) for names in s.dependencies} == {(put.key,)}
    assert opened(scheduler.wait_for(m.Submit)[0], inputs=("data",)) == (("data",), {})
    assert len(caught) == 1
    assert "argument 1 of len" in str(caught[0].message)
    assert "200," in str(caught[0].message)
    assert "scatter" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert len(futures) == 5


def test_more_than_the_scheduler_takes_blocks_and_then_raises() -> None:
    """With the reason; and finished tasks make room."""
    with (
        ScriptedScheduler(limits={"tasks": 10, "bytes": 1_000_000}) as scheduler,
        Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET, timeout=0.3) as client,
    ):
        futures = [client.submit(inc, i) for i in range(10)]
        with pytest.raises(IntakeError, match="10"):
            client.submit(inc, 10)
        scheduler.say(m.KeyFinished(futures[0].key, dumps(1), None, "int"))
        assert futures[0].result(5) == 1
        assert client.submit(inc, 11).status == "pending"


def test_a_blocked_submit_goes_on_when_there_is_room() -> None:
    """Back-pressure, not an error, is what a fast producer should see."""
    with (
        ScriptedScheduler(limits={"tasks": 10}) as scheduler,
        Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET) as client,
    ):
        scheduler.script[m.Submit] = finish_at_once
        futures = [client.submit(inc, i) for i in range(500)]
        assert client.gather(futures) == [future.key for future in futures]


def test_a_blocked_map_goes_on_when_there_is_room() -> None:
    """Also where what it takes on at a time is more than the scheduler ever takes."""
    with (
        ScriptedScheduler(limits={"tasks": 10}) as scheduler,
        Client(scheduler.url, cluster=scheduler.cluster, secret=SECRET) as client,
    ):
        scheduler.script[m.Submit] = finish_at_once
        futures = client.map(inc, range(500))
        assert client.gather(futures) == [future.key for future in futures]
        assert next(client._connection.intake.counter) - 1 == client._connection.intake.settled
        assert client._connection.intake.bytes == 0


def test_many_threads_may_submit_at_once(scheduler: ScriptedScheduler, client: Client) -> None:
    """Nothing is lost or mixed up between them."""
    scheduler.script[m.Submit] = finish_at_once
    right: list[bool] = []

    def work() -> None:
        futures = [client.submit(inc, i) for i in range(500)]
        right.append(client.gather(futures) == [future.key for future in futures])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 8
    assert client._connection.intake.settled == 4000
    assert client._connection.intake.bytes == 0


def promptly(client: Client, call: Callable[[], Any]) -> None:
    """Make a call whose future is settled and gone at the end, and that leaves from this thread."""
    client._connection.flush()  # no burst is under way
    poller = client._connection._io.poller
    assert poller is not None
    end = time.monotonic() + 5
    while poller.turn.locked():  # the I/O thread is awake
        assert time.monotonic() < end
    wait([call()])


def story(scheduler: ScriptedScheduler) -> list[str]:
    """Kinds of the messages about keys, in order."""
    return [type(one).__name__ for one in scheduler.heard if isinstance(one, (m.Submit, m.Release))]


def test_small_results_are_let_go_of_behind_the_next_call(
    scheduler: ScriptedScheduler, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who calls and waits, call after call, doesn't wait for that too; but they don't add up."""
    monkeypatch.setattr(outbox, "RELEASE_DELAY", 3600)
    scheduler.script[m.Submit] = finish_at_once
    for _ in range(outbox.FEW_DROPPED + 1):
        promptly(client, lambda: client.submit(inc, 0))
    assert story(scheduler) == ["Submit"] * (outbox.FEW_DROPPED + 1)
    promptly(client, lambda: client.submit(inc, 0))
    assert sorted(story(scheduler)[-2:]) == ["Release", "Submit"]
    assert len(scheduler.wait_for(m.Release)[0].keys) == outbox.FEW_DROPPED + 1


@pytest.mark.parametrize("settle", ["large", "never"])
def test_what_takes_room_is_let_go_of_with_the_next_call(
    scheduler: ScriptedScheduler, client: Client, settle: str
) -> None:
    """Or there would be room for both needed; and what nobody waits for is not to be begun any more."""

    def answer(scheduler: ScriptedScheduler, submit: m.Submit) -> None:
        if settle == "large":
            held = m.Held(submit.keys[0], 10**9)
            scheduler._endpoint.send(scheduler.client, m.KeyFinished(submit.keys[0], None, held, "bytes"))

    scheduler.script[m.Submit] = answer
    future = client.submit(inc, 1)
    if settle == "large":
        wait([future])
    else:
        scheduler.wait_for(m.Submit)
    client._connection.flush()
    del future
    following = client.submit(inc, 2)
    scheduler.wait_for(m.Submit, 2)
    assert sorted(story(scheduler)) == ["Release", "Submit", "Submit"]
    following.release()
