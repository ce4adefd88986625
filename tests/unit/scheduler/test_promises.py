"""What a call may be promised about its end: durable, kept, idempotent, at most once; and that it survives."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact, Begun
from futurebroker.scheduler import resuming
from futurebroker.scheduler.commands import ClientGone, Tick, WorkerLost
from tests.unit.scheduler.play import BIG, Play, finished, runs, submit, tell
from tests.unit.scheduler.projection import projection, replayed


def recorded(*workers: str, **policy: Any) -> tuple[Play, list[AnyFact]]:
    """A machine whose facts are noted."""
    play = Play(*workers, **policy)
    facts: list[AnyFact] = []
    play.state.facts = facts
    play.ann(m.AddFunction(b"f" * 16, "f", b"code"))
    play.bob(m.AddFunction(b"f" * 16, "f", b"code"))
    return play, facts


def test_a_durable_result_is_kept_whole_and_comes_back() -> None:
    """Results above 4 KiB otherwise lie with their worker only."""
    play, facts = recorded("w")
    play.ann(submit("x", durable=True), submit("y"))
    play.worker("w", finished("x", 1, BIG), finished("y", 2, BIG))
    assert play.task("x").value == BIG
    assert play.task("y").value is None
    again = replayed(facts, play.state.policy)
    assert again.tasks["x"].value == BIG
    assert projection(again)["tasks"] == projection(play.state)["tasks"]


def test_the_same_idempotency_key_gives_the_first_task_whatever_comes_with_it() -> None:
    """Another process pickles the same call to other bytes; the key is what counts."""
    play, facts = recorded("w")
    play.ann(submit("k", args=b"1", idempotent=True, keep=60.0))
    play.worker("w", finished("k", 1))
    play.handle(ClientGone("ann"))
    assert play.states() == {"k": "memory"}
    assert play.bob(submit("k", args=b"2", idempotent=True, keep=60.0)) == [tell("bob", m.KeyFinished("k", b"1"))]
    assert projection(replayed(facts, play.state.policy))["tasks"] == projection(play.state)["tasks"]


def test_a_kept_result_is_swept_when_its_time_has_come() -> None:
    """Or the scheduler would grow for ever."""
    play, facts = recorded("w")
    play.ann(submit("k", idempotent=True, keep=60.0))
    play.worker("w", finished("k", 1))
    play.ann(m.Release(["k"]))
    assert play.states() == {"k": "memory"}
    play.now = 61.0
    play.handle(Tick())
    assert play.states() == {}
    assert projection(replayed(facts, play.state.policy))["tasks"] == projection(play.state)["tasks"]


def test_what_ran_for_nobody_can_be_asked_for_by_its_key_for_a_while() -> None:
    """The program that called fire_and_forget has ended; another looks what became of it."""
    play, facts = recorded("w", detached_keep=10.0)
    play.ann(submit("x"), m.Detach(["x"]))
    play.handle(ClientGone("ann"))
    play.worker("w", finished("x", 1))
    assert play.bob(m.Want(["x"])) == [tell("bob", m.KeyFinished("x", b"1"))]
    play.bob(m.Release(["x"]))
    assert projection(replayed(facts, play.state.policy))["tasks"] == projection(play.state)["tasks"]
    play.now = 11.0
    play.handle(Tick())
    assert play.states() == {}


def test_at_most_once_fails_with_its_worker_even_if_it_may_not_have_begun() -> None:
    """Nobody can tell any more which of the tasks of a lost worker had begun."""
    play, _ = recorded("w", "v")
    play.ann(submit("x", at_most_once=True, workers=("w",)), submit("y", at_most_once=True, workers=("w",)))
    play.handle(WorkerLost("w"))
    assert play.states() == {"x": "erred", "y": "erred"}


def test_at_most_once_is_written_before_it_is_sent_and_fails_if_nobody_has_it_after_a_restart() -> None:
    """A scheduler that comes back can't know whether the task has begun, unless a worker says that it runs it."""
    play, facts = recorded("w")
    sent = play.ann(submit("x", at_most_once=True), submit("y"))
    assert runs(sent) == [("w", "x"), ("w", "y")]
    assert [fact.key for fact in facts if isinstance(fact, Begun)] == ["x"]
    assert play.state.guarded == {"x"}
    state = replayed(facts, play.state.policy)
    assert projection(state)["tasks"] == projection(play.state)["tasks"]
    resuming.ready(state, 2, 0.0, 5.0)
    state.facts = []
    resuming.finish(state)
    assert state.tasks["x"].state.value == "erred"
    assert state.tasks["x"].failure is not None
    assert state.tasks["x"].failure.type == "WorkerLostError"
    assert state.tasks["y"].state.value == "no_worker"


def test_at_most_once_that_was_handed_back_is_sent_again_also_after_a_restart() -> None:
    """It was never begun, and its worker says so."""
    play, facts = recorded("w")
    play.ann(submit("x", at_most_once=True))
    play.worker("w", m.GaveBack("x", 1))
    play.worker("w", m.GaveBack("x", 2))
    state = replayed(facts[:-1], play.state.policy)  # without the third time it was sent
    resuming.ready(state, 2, 0.0, 5.0)
    resuming.finish(state)
    assert state.tasks["x"].state.value == "no_worker"
