"""Queues and variables: what goes in comes out once, and futures inside live as long as somebody can get at them."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact
from futurebroker.scheduler import checkpoint, sharing
from futurebroker.scheduler.commands import ClientGone, Tick
from tests.unit.scheduler.play import Play, finished, submit, tell
from tests.unit.scheduler.projection import projection, replayed
from tests.unit.scheduler.test_leases import answers


def put(number: int, item: bytes, *keys: str, maxsize: int = 0, timeout: float | None = None) -> m.Ask:
    """Something for the queue q."""
    about: dict[str, Any] = {"name": "q", "op": f"put {item!r}", "item": item, "keys": list(keys)}
    return m.Ask(number, "queue_put", {**about, "maxsize": maxsize, "timeout": timeout})


def take(number: int, op: str, most: int = 1, least: int = 1, timeout: float | None = None) -> m.Ask:
    """Something out of the queue q."""
    return m.Ask(number, "queue_take", {"name": "q", "op": op, "most": most, "least": least, "timeout": timeout})


def variable(number: int, topic: str, item: bytes = b"", *keys: str, **about: Any) -> m.Ask:
    """Something about the variable v."""
    return m.Ask(number, f"variable_{topic}", {"name": "v", "op": str(number), "item": item, "keys": keys, **about})


def test_items_come_out_in_order_and_once() -> None:
    """Takers that come before the items are served in their order as well."""
    play = Play()
    assert answers(play.bob(take(1, "t1"), take(2, "t2"))) == []
    assert answers(play.ann(put(1, b"a"))) == [("ann", 1, True), ("bob", 1, [b"a"])]
    play.ann(put(2, b"b"), put(3, b"c"))
    assert answers(play.bob(take(3, "t3", most=0, least=0))) == [("bob", 3, [b"c"])]
    assert answers(play.bob(take(4, "t4", most=0, least=0))) == [("bob", 4, [])]


def test_a_request_that_comes_again_gets_the_same_answer() -> None:
    """Or an item would be lost with the answer, or be there twice."""
    play = Play()
    play.ann(put(1, b"a"), put(2, b"b"))
    assert answers(play.ann(put(3, b"a"))) == [("ann", 3, True)]
    assert answers(play.bob(take(1, "t1"), take(2, "t1"))) == [("bob", 1, [b"a"]), ("bob", 2, [b"a"])]
    assert answers(play.bob(take(3, "t2"))) == [("bob", 3, [b"b"])]
    play.now = sharing.KEPT
    play.handle(Tick())
    assert play.state.shared.answers == {}


def test_a_full_queue_makes_its_putters_wait() -> None:
    """Until there is room, or their time is over."""
    play = Play()
    play.ann(put(1, b"a", maxsize=1))
    assert answers(play.ann(put(2, b"b", maxsize=1, timeout=1.0), put(3, b"c", maxsize=1))) == []
    play.now = 1.0
    assert answers(play.handle(Tick())) == [("ann", 2, None)]
    assert answers(play.bob(take(1, "t"))) == [("bob", 1, [b"a"]), ("ann", 3, True)]


def test_futures_in_a_queue_outlive_who_put_them_there() -> None:
    """They are kept for the queue, then for a while for the taker, and then only if that wants them."""
    play = Play("w")
    play.ann(submit("x"), put(1, b"x", "x"), m.Release(["x"]))
    play.handle(ClientGone("ann"))
    play.worker("w", finished("x", 1))
    assert play.states() == {"x": "memory"}
    play.bob(take(1, "t"))
    assert play.states() == {"x": "memory"}
    play.bob(m.Want(["x"]))
    play.now = sharing.KEPT
    play.handle(Tick())
    assert play.states() == {"x": "memory"}
    play.bob(m.Release(["x"]))
    assert (play.states(), play.state.holders, play.state.shared.kept) == ({}, {}, {})


def test_a_putter_that_goes_takes_its_future_along() -> None:
    """What never was in the queue is not kept for it."""
    play = Play("w")
    play.ann(submit("x"), put(1, b"a", maxsize=1), put(2, b"x", "x", maxsize=1))
    play.handle(ClientGone("ann"))
    assert play.states() == {}


def test_closing_a_queue_lets_everything_go() -> None:
    """Who waits for it is told."""
    play = Play("w")
    play.ann(submit("x"), put(1, b"x", "x"), m.Release(["x"]))
    play.bob(take(1, "t", most=2, least=2))
    commands = play.ann(m.Ask(2, "queue_close", {"name": "q"}))
    assert tell("bob", m.Answer(1, None, "the queue q was closed")) in commands
    assert (play.states(), play.state.shared.mailboxes) == ({}, {})


def test_a_variable_keeps_its_future_until_it_is_set_to_something_else() -> None:
    """The one before stays for a while: somebody may have got it just now."""
    play = Play("w")
    assert answers(play.bob(variable(1, "get", timeout=5.0), variable(2, "get"))) == []
    commands = play.ann(submit("x"), variable(1, "set", b"x", "x"), m.Release(["x"]))
    assert answers(commands) == [("ann", 1, True), ("bob", 1, b"x"), ("bob", 2, b"x")]
    play.ann(variable(2, "set", b"plain"))
    assert "x" in play.states()
    play.now = sharing.KEPT
    play.handle(Tick())
    assert play.states() == {}
    play.ann(variable(3, "delete"))
    assert answers(play.bob(variable(3, "get", timeout=0.0))) == [("bob", 3, None)]


def test_a_journal_and_a_checkpoint_bring_everything_back() -> None:
    """Items, futures in them, who waits, and answers that may be asked for again."""
    play = Play("w")
    facts: list[AnyFact] = []
    play.state.facts = facts
    play.ann(m.AddFunction(b"f" * 16, "f", b"code"), submit("x"), put(1, b"x", "x", maxsize=1), m.Release(["x"]))
    play.bob(put(1, b"y", maxsize=1), variable(2, "set", b"v"), variable(3, "get"))
    again = replayed(facts, play.state.policy)
    assert projection(again)["extras"] == projection(play.state)["extras"]
    loaded = replayed([], play.state.policy, list(checkpoint.dump(play.state)))
    assert projection(loaded)["extras"] == projection(play.state)["extras"]
    assert [task.key for task in loaded.holders["queue:q"].wants] == ["x"]
