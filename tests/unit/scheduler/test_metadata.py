"""Plain data that clients keep under keys: nested, bounded, and in the journal; and topics that they subscribe to."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.scheduler import checkpoint, metadata
from futurebroker.scheduler.commands import ClientGone, ClientJoined, Send
from futurebroker.scheduler.topics import MOST
from tests.unit.scheduler.play import Play
from tests.unit.scheduler.projection import copy_of, projection, replayed


def answer(play: Play, topic: str, about: Any) -> m.Answer:
    """What ann is answered."""
    (told,) = play.ann(m.Ask(1, topic, about))
    assert isinstance(told.message, m.Answer)
    return told.message


def put(play: Play, keys: list[Any], value: Any) -> str:
    """Why it isn't kept, if so."""
    return answer(play, "set_metadata", {"keys": keys, "value": value}).error


def got(play: Play, *keys: Any) -> Any:
    """What is there; `metadata` for nothing."""
    found = answer(play, "get_metadata", list(keys)).value
    return found[0] if found else metadata


def test_keys_lead_into_nested_dicts() -> None:
    """Which are made as needed, and replace what isn't one; None is a value as well."""
    play = Play()
    assert put(play, ["x", "y"], 1) == ""
    assert put(play, ["x", "w", 3], {"a": [1, None]}) == ""
    assert got(play, "x") == {"y": 1, "w": {3: {"a": [1, None]}}}
    assert got(play, "x", "w", 3, "a") == [1, None]
    assert put(play, ["x", "y", "deeper"], None) == ""
    assert got(play, "x", "y") == {"deeper": None}
    assert got(play, "x", "y", "deeper") is None
    assert got(play, "x", "w", 3, "a", 0) is metadata
    assert got(play, "z") is metadata


def test_what_is_told_does_not_change_afterwards() -> None:
    """Answers and facts are encoded later than they are made."""
    play = Play()
    value = {"a": 1}
    put(play, ["x"], value)
    first = got(play, "x")
    put(play, ["x", "b"], 2)
    assert (value, first, got(play, "x")) == ({"a": 1}, {"a": 1}, {"a": 1, "b": 2})


def test_it_is_deleted_with_all_below() -> None:
    """And the room is free again."""
    play = Play()
    put(play, ["x", "y"], "." * 1000)
    assert not answer(play, "delete_metadata", ["x", "z"]).value
    assert not answer(play, "delete_metadata", ["x", "y", "z"]).value
    assert answer(play, "delete_metadata", ["x"]).value
    assert got(play, "x") is metadata
    assert play.state.metadata.nbytes == 0


def test_what_is_put_again_and_again_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may note how far it is for months, also below what it has put before."""
    monkeypatch.setattr(metadata, "TOTAL_LIMIT", 300)
    play = Play()
    for number in range(200):
        assert put(play, ["progress", "of", "the task"], number) == ""
        assert put(play, ["progress", "of", "another"], number) == ""
        assert put(play, ["progress"], number) == ""
    assert "300 bytes" in put(play, ["more"], "." * 300)
    assert got(play, "progress") == 199


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        ([], 1, "whole numbers"),
        ([""], 1, "1 to 255"),
        (["x" * 256], 1, "1 to 255"),
        ([1.5], 1, "whole numbers"),
        ([["x"]], 1, "whole numbers"),
        (["x"] * 33, 1, "at most 32"),
        (["x"], "." * metadata.VALUE_LIMIT, "may have 262,144"),
    ],
)
def test_what_cannot_be_kept_is_refused(keys: list[Any], value: Any, says: str) -> None:
    """With the bound that was reached; what was there stays."""
    play = Play()
    put(play, ["x"], "before")
    assert says in put(play, keys, value)
    assert got(play, "x") == "before"


def test_all_together_is_bounded() -> None:
    """What replaces something counts as the difference; deleting makes room."""
    play = Play()
    large = "." * (metadata.VALUE_LIMIT - 100)
    names = [f"k{number}" for number in range(20)]
    refused = [name for name in names if put(play, [name], large)]
    assert len(refused) == 4
    assert "delete_metadata makes room" in put(play, refused[:1], large)
    assert put(play, ["k0"], large) == ""
    assert answer(play, "delete_metadata", ["k0"]).value
    assert put(play, refused[:1], large) == ""


def test_it_is_in_the_journal_and_in_checkpoints() -> None:
    """A scheduler that starts anew finds it."""
    play = Play()
    play.state.facts = []
    put(play, ["x", "y"], 1)
    put(play, ["x", "z"], {"deep": [1, 2]})
    put(play, ["gone"], 1)
    answer(play, "delete_metadata", ["gone"])
    again = replayed(copy_of(play.state.facts), play.state.policy)
    assert again.metadata.data == {"x": {"y": 1, "z": {"deep": [1, 2]}}}
    assert projection(again)["extras"]["metadata"] == projection(play.state)["extras"]["metadata"]
    loaded = replayed([], play.state.policy, list(checkpoint.dump(play.state)))
    assert loaded.metadata.data == again.metadata.data
    assert loaded.metadata.nbytes == play.state.metadata.nbytes > 0


# -- topics ------------------------------------------------------------------------------------------------------------


def log(play: Play, topic: str, event: Any) -> list[Any]:
    """Bob logs an event; what others than bob are told."""
    told = play.bob(m.Ask(1, "log_event", {"topics": [topic], "event": event}))
    return [one for one in told if one.peer != "bob"]


def test_who_subscribed_is_told_until_it_does_not_want_to_be() -> None:
    """At once, and of nothing else."""
    play = Play()
    assert answer(play, "subscribe_topic", "t") == m.Answer(1)
    assert log(play, "t", {"a": 1}) == [Send("ann", m.Published("t", 0.0, {"a": 1}))]
    assert log(play, "another", 1) == []
    assert answer(play, "unsubscribe_topic", "t") == m.Answer(1)
    assert log(play, "t", 2) == []
    assert play.state.operations.subscribers == {}


def test_all_has_everything_once() -> None:
    """Workers that come and go too."""
    play = Play()
    answer(play, "subscribe_topic", "all")
    told = play.join("w")
    assert [one.message.event["action"] for one in told if one.peer == "ann"] == ["add-worker"]
    assert len(log(play, "t", 1)) == 1


def test_a_hello_says_all_topics_of_a_client() -> None:
    """So that one that meets another scheduler need not ask again; and a client that is gone has none."""
    play = Play()
    answer(play, "subscribe_topic", "old")
    play.handle(ClientJoined("ann", {"topics": ["t", 7]}))
    assert play.state.operations.subscribers == {"t": {"ann": None}}
    play.handle(ClientJoined("bob", {"topics": "nonsense"}))
    play.handle(ClientGone("ann"))
    assert play.state.operations.subscribers == {}


@pytest.mark.parametrize("topic", [None, "", "x" * 256, "é" * 128, ["t"]])
def test_a_topic_is_a_text(topic: Any) -> None:
    """Or the answer says so."""
    assert "1 to 255 characters" in answer(Play(), "subscribe_topic", topic).error


def test_topics_of_a_client_are_bounded() -> None:
    """Each costs something with every event."""
    play = Play()
    assert not [number for number in range(MOST) if answer(play, "subscribe_topic", f"t{number}").error]
    assert "100 topics" in answer(play, "subscribe_topic", "one more").error


def test_what_an_executor_has_for_subscribers_is_passed_on_and_not_kept() -> None:
    """As prints of tasks are; what isn't such is counted."""
    play = Play("w")
    answer(play, "subscribe_topic", "print")
    said = m.Said("event", "k", {"topic": "print", "event": {"args": ["x"]}})
    assert play.worker("w", said) == [Send("ann", m.Published("print", 0.0, {"args": ["x"]}))]
    assert play.worker("w", m.Said("event", "k", {"topic": "another", "event": 1})) == []
    assert play.worker("w", m.Said("event", "k", [1]), m.Said("event", "k", {"topic": 1})) == []
    assert play.state.counters["unexpected"] == 2
    assert "print" not in play.state.operations.events
