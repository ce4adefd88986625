"""Semaphores, locks and events: never more leases than allowed, first come first served, none is left with the dead."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact
from futurebroker.scheduler import checkpoint, leases
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


# -- several locks at a time -------------------------------------------------------------------------------------------


def many(number: int, lease: str, *names: str, least: int = 0, timeout: float | None = None) -> m.Ask:
    """A request for several locks."""
    about = {"name": "m", "op": lease, "timeout": timeout, "of": names, "least": least or len(names)}
    return m.Ask(number, "lease_acquire_many", about)


def free(number: int, lease: str, name: str) -> m.Ask:
    """One of them is given back."""
    return ask(number, "lease_release", lease, name)


def test_several_locks_are_had_together_or_waited_for() -> None:
    """Who asks first gets first what both want, so that nobody waits in a circle; single locks are no exception."""
    play = Play()
    assert answers(play.ann(many(1, "a", "x", "y"))) == [("ann", 1, ["x", "y"])]
    assert answers(play.bob(many(1, "b", "y", "z"), many(2, "c", "z", "x"), acquire(3, "d", name="z"))) == []
    assert answers(play.ann(free(2, "a", "x"))) == [("ann", 2, True)]
    assert answers(play.ann(free(3, "a", "y"))) == [("ann", 3, True), ("bob", 1, ["y", "z"])]
    assert answers(play.bob(free(4, "b", "y"), free(5, "b", "z")))[-1] == ("bob", 2, ["z", "x"])
    assert answers(play.bob(free(6, "c", "z")))[-1] == ("bob", 3, True)
    play.bob(free(7, "c", "x"), free(8, "d", "z"))
    assert play.state.shared.semaphores == {}


def test_some_of_several_locks_are_enough() -> None:
    """Those that are free first; the lines of the others are left."""
    play = Play()
    play.ann(acquire(1, "a", name="x"))
    assert answers(play.bob(many(1, "b", "x", "y", "z", least=2))) == [("bob", 1, ["y", "z"])]
    assert leases.leases(play.state, "x") == {"held": 1, "waiting": 0}
    assert answers(play.bob(many(2, "c", "x", "y", least=1))) == []
    assert answers(play.bob(free(3, "b", "y"))) == [("bob", 3, True), ("bob", 2, ["y"])]
    assert leases.leases(play.state, "x") == {"held": 1, "waiting": 0}


def test_several_locks_that_are_not_had_in_time_are_given_back() -> None:
    """Also those that were free; whoever waits behind goes on."""
    play = Play()
    play.ann(acquire(1, "a", name="x"))
    assert answers(play.bob(many(1, "b", "x", "y", timeout=0))) == [("bob", 1, None)]
    play.bob(many(2, "c", "x", "y", timeout=2.0), acquire(3, "d", name="y"))
    play.now = 2.0
    assert sorted(answers(play.handle(Tick()))) == [("bob", 2, None), ("bob", 3, True)]
    assert leases.leases(play.state, "x") == {"held": 1, "waiting": 0}
    assert play.state.shared.limits == {}


def test_a_client_that_is_gone_neither_holds_nor_waits_for_several() -> None:
    """Whatever was granted of it goes to the next, and to nobody who is gone."""
    play = Play()
    play.ann(acquire(1, "a", name="x"))
    play.bob(many(1, "b", "y", "x"), many(2, "c", "x", "z"))
    play.ann(many(2, "d", "z", "y"))
    assert answers(play.handle(ClientGone("bob"))) == [("ann", 2, ["z", "y"])]


def test_asking_again_for_several_changes_nothing() -> None:
    """A client that lost touch asks with the same name: it keeps its place, or hears what it has."""
    play = Play()
    play.ann(many(1, "a", "x", "y"))
    assert answers(play.ann(many(2, "a", "x", "y"))) == [("ann", 2, ["x", "y"])]
    play.bob(many(1, "b", "x", "y"))
    assert answers(play.bob(many(7, "b", "x", "y"))) == []
    assert answers(play.ann(free(3, "a", "x"), free(4, "a", "y")))[-1] == ("bob", 7, ["x", "y"])


@pytest.mark.parametrize(("names", "least"), [([], 1), (["x"], 2), (["x"], -1), (["x" * 256], 1), (["x", ""], 1)])
def test_several_that_cannot_be_are_refused(names: list[str], least: int) -> None:
    """And leave no trace."""
    play = Play()
    (told,) = play.ann(many(1, "a", *names, least=least))
    assert "names" in told.message.error
    play.bob(acquire(1, "s", most=2, name="semaphore"))
    (told,) = play.ann(many(2, "b", "x", "semaphore"))
    assert "max_leases=2" in told.message.error
    assert list(play.state.shared.semaphores) == ["semaphore"]


def test_several_locks_outlive_the_scheduler() -> None:
    """Held ones, those that are waited for, and how long."""
    play = Play()
    facts: list[AnyFact] = []
    play.state.facts = facts
    play.ann(many(1, "a", "x", "y"))
    play.bob(many(1, "b", "y", "z", timeout=5.0), many(2, "c", "x", "z"))
    again = replayed(facts, play.state.policy)
    assert projection(again)["extras"]["leases"] == projection(play.state)["extras"]["leases"]
    loaded = replayed([], play.state.policy, list(checkpoint.dump(play.state)))
    assert projection(loaded)["extras"]["leases"] == projection(play.state)["extras"]["leases"]
    assert list(loaded.shared.limits) == ["b"]


def test_nothing_is_kept_of_what_was_waited_for_in_vain() -> None:
    """A name is used once by many programs; whoever waits gives up in time, or goes."""
    play = Play()
    play.ann(ask(1, "event_wait", "a", "at once", timeout=0.0), ask(2, "event_wait", "b", "soon", timeout=1.0))
    play.bob(ask(1, "event_wait", "c", "gone"))
    assert list(play.state.shared.flags) == ["soon", "gone"]
    play.now = 1.0
    play.handle(Tick(), ClientGone("bob"))
    assert not play.state.shared.flags
    play.state.shared.reunion_until = 9.0
    play.ann(acquire(3, "d", 2.0))
    play.now = 3.0
    assert answers(play.handle(Tick())) == [("ann", 3, None)]
    assert not play.state.shared.semaphores


def test_who_has_the_locks_it_needs_gets_no_more_of_them() -> None:
    """One is granted while the lines of the others are left, and whoever gets that leaves lines as well."""
    play = Play()
    several = {"timeout": None, "of": ["one", "other", "third"], "least": 1}
    play.ann(*(acquire(number, f"a{number}", name=name) for number, name in enumerate(several["of"], 1)))  # type: ignore[arg-type]
    play.bob(ask(1, "lease_acquire_many", "b", "one", **several), ask(2, "lease_acquire_many", "c", "one", **several))
    given_back = [ask(9, "lease_release", "a1", "one"), ask(9, "lease_release", "a2", "other")]
    assert answers(play.ann(*given_back, ask(9, "lease_release", "a3", "third"))) == [
        ("ann", 9, True), ("bob", 1, ["one"]), ("ann", 9, True), ("bob", 2, ["other"]), ("ann", 9, True),
    ]  # fmt: skip
    assert set(play.state.shared.semaphores) == {"one", "other"}


@pytest.mark.parametrize("gives_up", [False, True])
def test_what_leaves_several_lines_is_not_granted_the_next(gives_up: bool) -> None:
    """All locks are free at once when clients of the time before have had their moment."""
    play = Play()
    play.state.shared.reunion_until = 9.0
    of = ["one", "other", "third"]
    first: dict[str, Any] = {"timeout": 5.0 if gives_up else None, "of": of, "least": 3 if gives_up else 1}
    play.ann(ask(1, "lease_acquire_many", "a", "one", **first))
    play.bob(ask(1, "lease_acquire_many", "b", "one", timeout=None, of=of, least=1))
    play.now = 5.0
    assert answers(play.handle(Tick())) == ([("ann", 1, None)] if gives_up else [])
    play.now = 9.0
    others = [] if gives_up else [("ann", 1, ["one"])]
    assert answers(play.handle(Tick())) == [*others, ("bob", 1, ["one"] if gives_up else ["other"])]
    assert set(play.state.shared.semaphores) == ({"one"} if gives_up else {"one", "other"})
