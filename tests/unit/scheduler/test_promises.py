"""What a call may be promised about its end: durable, kept, idempotent, at most once; and that it survives."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact, Begun
from futurebroker.scheduler import checkpoint, resuming
from futurebroker.scheduler.commands import ClientGone, Send, Tick, WorkerBeat, WorkerLost
from tests.unit.scheduler.play import BIG, FUNCTION, LARGE, Play, finished, runs, submit, tell
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


def used_and_released() -> tuple[Play, list[AnyFact]]:
    """x ran, y was made of it and lies with its worker, and nobody wants x any more."""
    play, facts = recorded("w")
    play.ann(submit("x", at_most_once=True), submit("y", "x"))
    play.worker("w", finished("x", 1, None), finished("y", 2, None))
    play.ann(m.Release(["x"]))
    assert play.states() == {"x": "released", "y": "memory"}
    return play, facts


def agrees_with_its_facts(play: Play, facts: list[AnyFact]) -> bool:
    """Whether a scheduler that is started again would know the same, also by way of a checkpoint."""
    live, again = projection(play.state), replayed(facts, play.state.policy)
    folded = replayed([], play.state.policy, list(checkpoint.dump(again)))
    return all(projection(one)[part] == live[part] for one in (again, folded) for part in ("tasks", "extras"))


def test_at_most_once_is_not_run_again_for_what_was_made_of_it() -> None:
    """Its result was released after use; what used it is lost later, and can't be had without it."""
    play, facts = used_and_released()
    assert agrees_with_its_facts(play, facts)
    assert not runs(play.handle(WorkerLost("w")))
    assert not runs(play.join("v"))
    assert play.states() == {"x": "erred", "y": "erred"}
    failure = play.task("y").failure
    assert failure is not None
    assert (failure.type, failure.key) == ("DataLostError", "x")
    assert "retry it" in failure.message
    assert agrees_with_its_facts(play, facts)


def test_at_most_once_is_not_run_again_after_a_restart_from_a_checkpoint() -> None:
    """What was begun once is among what must survive."""
    play, facts = used_and_released()
    state = replayed([], play.state.policy, list(checkpoint.dump(replayed(facts, play.state.policy))))
    resuming.ready(state, 2, 0.0, 5.0)
    resuming.finish(state)  # the worker that had y is not there any more
    assert {key: task.state.value for key, task in state.tasks.items()} == {"x": "erred", "y": "erred"}


def test_at_most_once_is_not_run_again_for_who_asks_for_its_result_late() -> None:
    """A new task that needs it, or a future by its key, gets the reason."""
    play, facts = used_and_released()
    told = play.bob(m.Want(["x"]), submit("z", "x"))
    assert not runs(told)
    assert [(one.peer, one.message.key, one.message.failure.type) for one in told] == [
        ("bob", "x", "DataLostError"),
        ("bob", "z", "DataLostError"),
    ]
    assert play.states() == {"x": "erred", "y": "memory", "z": "erred"}
    assert agrees_with_its_facts(play, facts)


def test_at_most_once_runs_again_for_who_retries_it_or_what_failed_by_it() -> None:
    """Its user knows what it did; whether a scheduler was started again meanwhile makes no difference."""
    play, facts = used_and_released()
    play.handle(WorkerLost("w"))
    play.join("v")
    again = play.ann(m.Retry(["y"]))
    assert runs(again) == [("v", "x"), ("v", "y")]
    assert not play.state.spent
    assert agrees_with_its_facts(play, facts)
    play.worker("v", finished("x", 3, None))
    play.worker("v", finished("y", 4, None))
    assert play.states() == {"x": "released", "y": "memory"}
    assert not runs(play.handle(WorkerLost("v")))  # it ran for that retry, and that was all
    assert play.states() == {"x": "erred", "y": "erred"}
    assert agrees_with_its_facts(play, facts)


def retried_by_bob() -> tuple[Play, list[AnyFact]]:
    """x ran, its result was asked for in vain, and bob had it run again; y is still there."""
    play, facts = used_and_released()
    play.bob(m.Want(["x"]))
    assert runs(play.bob(m.Retry(["x"]))) == [("w", "x")]
    assert play.states() == {"x": "processing", "y": "memory"}
    return play, facts


def test_at_most_once_that_was_given_up_while_it_ran_is_not_run_again() -> None:
    """Nobody can tell how far it came."""
    play, facts = retried_by_bob()
    play.bob(m.Release(["x"]))
    assert play.states() == {"x": "released", "y": "memory"}
    assert agrees_with_its_facts(play, facts)
    assert not runs(play.bob(m.Want(["x"])))
    assert play.states() == {"x": "erred", "y": "memory"}


def test_at_most_once_that_was_handed_back_and_given_up_runs_when_it_is_needed() -> None:
    """It was sent, and never begun."""
    play, facts = retried_by_bob()
    play.handle(WorkerBeat("w", "paused", {}))
    play.worker("w", m.GaveBack("x", play.task("x").attempt))
    play.bob(m.Release(["x"]))
    assert play.states() == {"x": "released", "y": "memory"}
    assert agrees_with_its_facts(play, facts)
    play.handle(WorkerBeat("w", "running", {}))
    assert runs(play.bob(m.Want(["x"]))) == [("w", "x")]


def test_retrying_one_task_does_not_run_another_again_that_failed_by_itself() -> None:
    """y may not run twice and was lost with its worker; somebody retries x, of which it was made."""
    play, facts = recorded("w", "v")
    play.ann(submit("x", at_most_once=True, workers=("w",)), submit("y", "x", at_most_once=True, workers=("v",)))
    play.worker("w", finished("x", 1, None))
    assert play.states() == {"x": "memory", "y": "processing"}
    play.handle(WorkerLost("v"))
    play.handle(WorkerLost("w"))
    assert play.states() == {"x": "erred", "y": "erred"}
    play.join("w")
    play.join("v")
    assert runs(play.ann(m.Retry(["x"]))) == [("w", "x")]
    assert play.states() == {"x": "processing", "y": "erred"}
    play.worker("w", finished("x", 3, b"1"))
    assert runs(play.ann(m.Retry(["y"]))) == [("v", "y")]
    assert agrees_with_its_facts(play, facts)


def test_at_most_once_that_was_sent_ahead_fails_with_its_worker() -> None:
    """What it follows may have ended there, and it may have begun, before anybody was told of either."""
    play, facts = recorded("w")
    play.ann(submit("x"), submit("y", "x", at_most_once=True))
    assert play.states() == {"x": "processing", "y": "processing"}
    play.join("v")
    assert runs(play.handle(WorkerLost("w"))) == [("v", "x")]
    failure = play.task("y").failure
    assert failure is not None
    assert (failure.type, failure.key) == ("WorkerLostError", "y")
    assert agrees_with_its_facts(play, facts)


def test_at_most_once_stays_where_it_was_sent_behind_a_task_that_another_worker_kept() -> None:
    """What it follows may have ended there, and it may have begun: nothing is taken from that worker."""
    play = Play("w")
    play.ann(submit("x"), submit("y", "x", at_most_once=True))
    play.join("v")
    kept = m.Inventory([("x", LARGE, "/x")], [], [], True)
    assert play.worker("v", kept) == [Send("v", m.Free(["x"]))]
    assert play.worker("v", m.Inventory([], [], [("x", FUNCTION)], True)) == []
    assert play.bob(m.PutValue("x", b"1", given=True)) == []
    assert play.states() == {"x": "processing", "y": "processing"}
    play.worker("w", finished("x", 1), finished("y", 2))
    assert play.states() == {"x": "memory", "y": "memory"}
