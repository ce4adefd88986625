"""Keys that users choose and use for one call after the other: each future ends as its own call does."""

from __future__ import annotations

import pytest

from futurebroker.client.calls import Call, PreparedColumn
from futurebroker.client.chosen import MOST, ChosenKeys
from futurebroker.client.client import Client
from futurebroker.client.futures import KeyState
from futurebroker.client.remembering import Remembered
from futurebroker.exceptions import DuplicateKeyError
from futurebroker.protocol import messages as m
from futurebroker.protocol.serialize import dump_failure, dumps
from tests.unit.client.scripted import ScriptedScheduler


def reuse(scheduler: ScriptedScheduler, client: Client, cancels: bool = False) -> tuple[object, m.Ask]:
    """A call under a key whose first call was given up; its future, and what is asked before it is sent."""
    first = client.submit(len, "x", key="k")
    scheduler.wait_for_keys(1)
    if cancels:
        first.cancel()
    del first
    second = client.submit(len, "other", key="k")
    assert scheduler.wait_for_keys(2) == ["k", "k"]
    release, ask, submit = scheduler.heard[-3:]
    assert (release, type(ask), submit.is_new) == (m.Release(["k"]), m.Ask, True)
    return second, ask


@pytest.mark.parametrize("cancels", [False, True])
def test_what_comes_of_the_call_before_is_not_taken_for_the_next(
    scheduler: ScriptedScheduler, client: Client, cancels: bool
) -> None:
    """It was on its way when the key was used again; the answer to a question tells that nothing is any more."""
    second, ask = reuse(scheduler, client, cancels)
    scheduler.say(
        m.KeyFinished("k", dumps("former"), None, "str"),
        m.KeyErred("k", dump_failure(ValueError("former"), "k", "w")),
        m.KeyLost("k"),
        m.KeyCancelled("k", "by the client"),
        m.Answer(ask.number, {}),
        m.KeyFinished("k", dumps("latter"), None, "str"),
    )
    assert second.result(5) == "latter"  # type: ignore[attr-defined]


def test_a_future_that_is_held_stands_for_its_key(scheduler: ScriptedScheduler, client: Client) -> None:
    """As ever: the same key is the same result."""
    first = client.submit(len, "x", key="k")
    second = client.submit(len, "other", key="k")
    client.submit(len, "last")
    assert scheduler.wait_for_keys(2)[0] == "k"
    scheduler.say(m.KeyFinished("k", dumps(1), None, "int"))
    assert (first.result(5), second.result(5)) == (1, 1)
    assert not [message for message in scheduler.heard if isinstance(message, m.Ask)]


def test_a_key_that_was_used_before_is_new_to_a_restarted_scheduler(
    scheduler: ScriptedScheduler, client: Client
) -> None:
    """A worker may have a result of the call before, and was not told to forget it; other keys' results are welcome."""
    second, _ = reuse(scheduler, client)
    other = client.submit(len, "x", key="other")
    scheduler.wait_for_keys(3)
    scheduler.heard.clear()
    scheduler.restart(client)
    scheduler.wait_for_keys(2, 20)
    assert {key: one.is_new for one in scheduler.wait_for(m.Submit) for key in one.keys} == {"k": True, "other": False}
    scheduler.say(m.KeyFinished("k", dumps("latter"), None, "str"), m.KeyFinished("other", dumps(1), None, "int"))
    assert second.result(5) == "latter"  # type: ignore[attr-defined]
    assert other.result(5) == 1


def test_a_call_that_is_needed_is_sent_again_and_not_the_next_under_its_key() -> None:
    """What follows on the first would be made of the second; the scheduler before would have refused that."""
    states = {key: KeyState(key, None, 1) for key in ("x", "y")}  # type: ignore[arg-type]
    memory = Remembered(states.get, set())
    first, follower, second = (Call.of(len, None, "salt") for _ in range(3))
    memory.add(PreparedColumn(first, ["x"], [b"1"], 1))
    memory.add(PreparedColumn(follower, ["y"], [b"-"], 1, [("x",)]))
    memory.add(PreparedColumn(second, ["x"], [b"2"], 1))
    assert memory.newest({"x"}) == [(second, "x", b"2", None)]
    again, refused = memory.take(set())
    assert list(again.values()) == [(first, "x", b"1", None), (follower, "y", b"-", ("x",))]
    assert refused == {"x"}


def test_a_call_that_would_be_refused_fails_when_the_scheduler_is_restarted(
    scheduler: ScriptedScheduler, client: Client
) -> None:
    """It names the key; what its key meant before goes on for what depends on it."""
    first = client.submit(len, "x", key="k")
    follower = client.submit(len, first)
    del first
    second = client.submit(len, "other", key="k")
    scheduler.wait_for_keys(3)
    scheduler.heard.clear()
    scheduler.restart(client)
    with pytest.raises(DuplicateKeyError, match="k"):
        second.result(20)
    assert scheduler.wait_for_keys(2) == ["k", follower.key]
    assert scheduler.wait_for(m.Release)[0].keys == ["k"]


def test_keys_are_remembered_up_to_a_number() -> None:
    """A program that chooses millions of keys must not keep them all."""
    chosen = ChosenKeys(iter(range(1, 10)).__next__)
    assert chosen.use("k") is None
    assert chosen.use("k") == m.Ask(1, "who_has", [])
    assert all(chosen.use(f"k{number}") is None for number in range(MOST))
    assert chosen.use("k") is None
    assert set(chosen.former) == {"k"}
    assert chosen.ask_again() == [m.Ask(2, "who_has", [])]
    chosen.answered(1)
    assert chosen.former == {}
