"""Semaphores, locks and events: never more leases than allowed, first come first served, none is left with the dead."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact
from futurebroker.scheduler import leases
from futurebroker.scheduler.commands import ClientGone, Send, Tick
from tests.unit.scheduler.play import Play, tell
from tests.unit.scheduler.projection import projection, replayed


def acquire(number: int, lease: str, timeout: float | None = None, most: int = 1, name: str = "s") -> m.Ask:
    """A request for a lease."""
    return m.Ask(number, "lease_acquire", {"name": name, "op": lease, "timeout": timeout, "max_leases": most})


def ask(number: int, topic: str, op: str = "", name: str = "s", **about: Any) -> m.Ask:
    """Another request."""
    return m.Ask(number, topic, {"name": name, "op": op, **about})


def answers(commands: list[Any]) -> list[tuple[str, int, Any]]:
    """Who was answered what."""
    return [
        (one.peer, one.message.number, one.message.value)
        for one in commands
        if isinstance(one, Send) and isinstance(one.message, m.Answer)
    ]


def test_leases_are_given_in_the_order_of_the_requests() -> None:
    """Two may have it; the third waits for one of them, whoever comes after."""
    play = Play()
    assert answers(play.ann(acquire(1, "a", most=2), acquire(2, "b", most=2))) == [("ann", 1, True), ("ann", 2, True)]
    assert answers(play.bob(acquire(1, "c", most=2), acquire(2, "d", most=2))) == []
    assert answers(play.ann(ask(3, "lease_release", "a"))) == [("ann", 3, True), ("bob", 1, True)]
    assert leases.leases(play.state, "s") == {"held": 2, "waiting": 1}


def test_who_does_not_want_to_wait_is_told_at_once() -> None:
    """``timeout=0`` is a question; a longer one ends by the clock, and then the lease goes to the next."""
    play = Play()
    play.ann(acquire(1, "a"))
    assert answers(play.bob(acquire(1, "b", 0.0))) == [("bob", 1, None)]
    assert answers(play.bob(acquire(2, "c", 2.0), acquire(3, "d"))) == []
    play.now = 2.0
    assert answers(play.handle(Tick())) == [("bob", 2, None)]
    assert answers(play.ann(ask(2, "lease_release", "a"))) == [("ann", 2, True), ("bob", 3, True)]


def test_a_dead_client_leaves_no_lease_behind() -> None:
    """Neither what it holds nor what it waits for."""
    play = Play()
    play.ann(acquire(1, "a"), acquire(2, "b"))
    play.bob(acquire(1, "c"))
    assert answers(play.handle(ClientGone("ann"))) == [("bob", 1, True)]
    play.handle(ClientGone("bob"))
    assert play.state.shared.semaphores == {}


def test_a_request_that_comes_again_counts_once() -> None:
    """After a restart clients ask again; they must not get two leases, nor lose their place."""
    play = Play()
    assert answers(play.ann(acquire(1, "a"), acquire(2, "a"))) == [("ann", 1, True), ("ann", 2, True)]
    play.bob(acquire(1, "b"), acquire(2, "c"), acquire(3, "b"))
    assert answers(play.ann(ask(3, "lease_release", "a"))) == [("ann", 3, True), ("bob", 3, True)]
    assert answers(play.ann(ask(4, "lease_release", "a"))) == [("ann", 4, False)]


def test_what_is_held_is_asserted_before_anybody_is_given_more() -> None:
    """A scheduler that knows nothing of the time before waits for those who do."""
    play = Play()
    leases.expect_reunion(play.state, play.now)
    assert answers(play.bob(acquire(1, "b"))) == []
    assert answers(play.ann(ask(1, "lease_assert", leases=["a"]))) == [("ann", 1, ["a"])]
    assert answers(play.bob(ask(2, "lease_assert", leases=["x"]))) == [("bob", 2, [])]
    play.now = leases.REUNION
    assert answers(play.handle(Tick())) == []
    assert answers(play.ann(ask(2, "lease_release", "a"))) == [("ann", 2, True), ("bob", 1, True)]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (acquire(9, "z", most=2), "has max_leases=1, not 2"),
        (acquire(9, "z", most=0, name="other"), "1 or more"),
        (m.Ask(9, "lease_acquire", None), "lease_acquire: "),
        (m.Ask(9, "lease_acquire", {"name": ""}), "1 to 255 characters"),
        (m.Ask(9, "event_wait", {"name": 3}), "event_wait: "),
    ],
)
def test_a_request_that_makes_no_sense_is_answered_with_why(message: m.Ask, text: str) -> None:
    """Nothing that a client says stops the scheduler."""
    play = Play()
    play.ann(acquire(1, "a"))
    (command,) = play.bob(message)
    assert text in command.message.error
    assert leases.leases(play.state, "s") == {"held": 1, "waiting": 0}


def test_an_event_lets_all_go_that_wait() -> None:
    """And those that come later, until it is cleared."""
    play = Play()
    assert answers(play.ann(ask(1, "event_wait", "a"), ask(2, "event_wait", "b", timeout=1.0))) == []
    assert answers(play.bob(ask(1, "event_set"))) == [("bob", 1, True), ("ann", 1, True), ("ann", 2, True)]
    assert answers(play.ann(ask(3, "event_wait", "c"))) == [("ann", 3, True)]
    assert leases.is_set(play.state, "s")
    play.ann(ask(4, "event_clear"))
    assert (play.bob(m.Ask(2, "event_is_set", "s"))) == [tell("bob", m.Answer(2, False))]
    assert play.state.shared.flags == {}


def test_a_journal_brings_leases_and_lines_back() -> None:
    """What was granted stays granted, and who waited still does."""
    play = Play()
    facts: list[AnyFact] = []
    play.state.facts = facts
    play.ann(acquire(1, "a"), acquire(2, "b", 9.0), ask(3, "event_wait", "w", name="e"))
    play.bob(acquire(1, "c"), ask(2, "lease_release", "nothing"))
    again = replayed(facts, play.state.policy)
    assert projection(again)["extras"] == projection(play.state)["extras"]
    assert list(again.shared.semaphores["s"].holders.items()) == [("a", "ann")]
    assert list(again.shared.semaphores["s"].line) == ["b", "c"]
