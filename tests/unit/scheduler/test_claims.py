"""What workers kept of their time with a former scheduler."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import Send, WorkerBeat, WorkerLost
from tests.unit.scheduler.play import BIG, FUNCTION, LARGE, Play, failure, finished, runs, submit, tell

BEAT = WorkerBeat("w", "running", {})
HELD = m.Inventory([("x", 70_000, "/x")], [("small", b"1")])


def test_a_kept_result_is_taken_instead_of_computed() -> None:
    """The client submits again all that it has; what was done must not be done twice."""
    play = Play("w")
    assert play.worker("w", HELD) == []
    held = m.Held("x", 70_000, [("w", "/x")])
    assert play.ann(submit("x"), submit("small"), submit("y", "x", "small")) == [
        tell("ann", m.KeyFinished("x", None, held)),
        tell("ann", m.KeyFinished("small", b"1")),
        play.run("w", "y", 1, held, b"1"),
        Send("w", m.Free(["small"])),
    ]
    assert play.state.claims == {}


def test_a_worker_that_comes_after_the_calls_spares_them() -> None:
    """Who meets the new scheduler first is a matter of luck."""
    play = Play()
    play.ann(submit("a"), submit("x", "a", workers=("elsewhere",)), submit("y", "x"))
    play.ann(m.Release(["a"]))
    play.join("w")
    play.now = 1.0
    assert play.states()["a"] == "processing"
    commands = play.worker("w", HELD)
    assert tell("ann", m.KeyFinished("x", None, m.Held("x", 70_000, [("w", "/x")]))) in commands
    assert Send("w", m.Drop("a", 1)) in commands
    assert play.states() == {"a": "released", "x": "memory", "y": "processing"}


def test_a_kept_result_comes_before_a_run_of_another_worker_that_has_begun() -> None:
    """It is there already. On the worker that runs it again a Free would take the new result, which comes soon."""
    play = Play("w", "v")
    play.ann(submit("x"))
    worker = play.task("x").worker
    assert worker is not None
    place = worker.worker_id
    other = "v" if place == "w" else "w"
    assert play.worker(place, HELD) == []
    assert play.states() == {"x": "processing"}
    held = m.Held("x", 70_000, [(other, "/x")])
    assert play.worker(other, HELD) == [Send(place, m.Drop("x", 1)), tell("ann", m.KeyFinished("x", None, held))]
    assert play.worker(place, m.GaveBack("x", 1)) == []
    assert play.states() == {"x": "memory"}


def test_what_nobody_asks_for_is_freed_after_the_grace_time() -> None:
    """Stores would fill with what belongs to programs that are gone."""
    play = Play("w", claim_grace=30.0)
    play.worker("w", HELD)
    play.now = 29.0
    assert play.handle(BEAT) == []
    play.now = 30.0
    assert play.handle(BEAT) == [Send("w", m.Free(["small", "x"]))]
    assert play.ann(m.Want(["x"])) == [
        tell("ann", m.KeyCancelled("x", "its task is not known; it was released or cancelled", "lost"))
    ]


def test_scattered_data_is_waited_for() -> None:
    """Nobody can submit it again, and calls that need it follow at once."""
    play = Play()
    assert play.ann(m.Want(["x"], patient=True), submit("y", "x")) == []
    play.join("w")
    held = m.Held("x", 70_000, [("w", "/x")])
    assert play.worker("w", HELD) == [tell("ann", m.KeyFinished("x", None, held)), play.run("w", "y", 1, held)]


def test_data_that_no_worker_has_is_lost_in_the_end() -> None:
    """An error after half a minute, not a program that hangs."""
    play = Play("w", claim_grace=30.0)
    play.ann(m.Want(["x"], patient=True), submit("y", "x"))
    play.now = 30.0
    first, second = play.handle(BEAT)
    assert (first.message.key, first.message.failure.type) == ("x", "DataLostError")
    assert second.message == m.KeyErred("y", first.message.failure)
    play.ann(m.Release(["x", "y"]))
    assert play.states() == {}


def test_a_worker_takes_what_it_kept_with_it() -> None:
    """What only it had is computed again."""
    play = Play("w", "v")
    play.worker("w", HELD)
    play.handle(WorkerLost("w"))
    assert runs(play.ann(submit("x"))) == [("v", "x")]


# -- what clients give back ----------------------------------------------------------------------------------------


def given(key: str, value: bytes = BIG) -> m.PutValue:
    """A result that a client has, for a scheduler that knows nothing of it."""
    return m.PutValue(key, value, given=True)


def test_a_result_that_a_client_gives_back_can_not_be_lost() -> None:
    """Nobody may know how to compute it again, so it stays with no worker, however large."""
    play = Play("w")
    play.worker("w", m.Inventory([("x", len(BIG), "/x")]))
    assert play.ann(given("x")) == [Send("w", m.Free(["x"])), tell("ann", m.KeyFinished("x", BIG))]
    play.handle(WorkerLost("w"))
    assert play.states() == {"x": "memory"}


def test_what_one_client_gives_back_another_may_submit() -> None:
    """Both had futures of one key; which of them meets the new scheduler first is a matter of luck."""
    play = Play("w")
    play.ann(given("x"))
    assert play.bob(submit("x"), submit("y", "x")) == [
        tell("bob", m.KeyFinished("x", BIG)), play.run("w", "y", 1, BIG),
    ]  # fmt: skip
    other = Play("w")
    other.bob(submit("x"), submit("y", "x"))
    commands = other.ann(given("x"))
    assert commands[0] == Send("w", m.Drop("x", 1))
    assert {one.peer for one in commands if one.message == m.KeyFinished("x", BIG)} == {"ann", "bob"}
    assert other.states() == {"x": "memory", "y": "processing"}


def test_a_result_ends_the_failure_it_met() -> None:
    """It was computed once, so its client keeps it."""
    play = Play("w")
    play.bob(submit("x"))
    play.worker("w", m.Erred("x", 1, m.Failure("ValueError", "no", "", "x", "w")))
    assert tell("ann", m.KeyFinished("x", BIG)) in play.ann(given("x"))
    assert play.states() == {"x": "memory"}


def test_a_given_result_takes_the_place_of_copies_that_can_be_lost() -> None:
    """Another client's want had taken it from a worker."""
    play = Play("w")
    play.bob(m.Want(["x"], patient=True))
    play.worker("w", HELD)
    assert play.ann(given("x")) == [tell("ann", m.KeyFinished("x", BIG)), Send("w", m.Free(["x"]))]
    play.handle(WorkerLost("w"))
    assert play.states() == {"x": "memory"}


# -- keys that one client waits for and another submits --------------------------------------------------------------


def test_a_key_that_was_waited_for_is_computed_once_it_is_submitted() -> None:
    """It is no second task of the same key."""
    play = Play("w")
    assert play.bob(m.Want(["x"], patient=True), submit("y", "x")) == []
    assert runs(play.ann(submit("a"), submit("x", "a", priority=3))) == [("w", "a"), ("w", "x"), ("w", "y")]
    assert play.task("x").order < play.task("a").order
    play.worker("w", finished("a", 1), finished("x", 2))
    assert play.states() == {"a": "memory", "x": "memory", "y": "processing"}


def test_a_key_that_was_found_at_a_worker_can_be_computed_once_it_is_submitted() -> None:
    """Or the loss of that worker would be the loss of the result."""
    play = Play("w")
    play.bob(m.Want(["x"], patient=True))
    play.worker("w", HELD)
    assert play.ann(submit("x")) == [tell("ann", m.KeyFinished("x", None, m.Held("x", 70_000, [("w", "/x")])))]
    play.join("v")
    assert runs(play.handle(WorkerLost("w"))) == [("v", "x")]


def test_a_key_that_is_lost_before_it_is_submitted_is_waited_for_again() -> None:
    """Its client may be on the way."""
    play = Play("w")
    play.bob(m.Want(["x"], patient=True))
    play.worker("w", HELD)
    assert tell("bob", m.KeyLost("x")) in play.handle(WorkerLost("w"))
    assert play.states() == {"x": "no_worker"}
    play.join("v")
    assert runs(play.ann(submit("x"))) == [("v", "x")]


def test_who_submits_too_late_sets_it_right() -> None:
    """The wait was over and its end told; a future that failed so is open again."""
    play = Play("w", claim_grace=30.0)
    play.bob(m.Want(["x"], patient=True))
    play.now = 31.0
    play.bob()
    assert play.states() == {"x": "erred"}
    assert tell("bob", m.KeyLost("x")) in play.ann(submit("x"))
    assert play.states() == {"x": "processing"}


@pytest.mark.parametrize("inputs", [("y",), ("a", "a"), ("unknown",)])
def test_a_key_that_was_waited_for_is_not_made_from_itself(inputs: tuple[str, ...]) -> None:
    """Nothing of a circle could ever run."""
    play = Play("w")
    play.bob(m.Want(["x"], patient=True), submit("y", "x"))
    play.ann(submit("a"))
    (refusal,) = play.ann(submit("x", *inputs))
    assert (refusal.message.key, refusal.message.kind) == ("x", "rejected")
    assert play.states() == {"x": "no_worker", "y": "waiting", "a": "processing"}


def test_scattered_data_that_was_waited_for_may_come_again() -> None:
    """Its client has it in small messages."""
    play = Play("w")
    play.bob(m.Want(["x"], patient=True))
    commands = play.ann(m.PutValue("x", b"1"))
    assert {one.peer for one in commands if one.message == m.KeyFinished("x", b"1")} == {"ann", "bob"}


def test_what_nobody_wants_is_let_go_of_though_it_had_ended_before_it_was_known() -> None:
    """Only its key and its result were known; then it is said that it was to be run for nobody."""
    play = Play("w")
    play.worker("w", m.Inventory([], [("x", b"1")], [], True))
    play.bob(m.Want(["x"], patient=True))
    play.ann(submit("x", unwanted=True))
    assert play.states() == {"x": "memory"}
    assert not play.state.detached.wants
    play.ann(m.Release(["x"]))
    play.bob(m.Release(["x"]))
    assert play.states() == {}


def test_what_needs_a_task_that_had_failed_fails_by_its_cause() -> None:
    """Its client tells a scheduler that knows nothing; also if another client waits for it, or a worker has it."""
    play = Play("w")
    play.worker("w", m.Inventory([("x", LARGE, "/x")], [], [], True))
    play.bob(m.Want(["y"], patient=True))
    for key in ("x", "y"):
        assert tell("ann", m.KeyErred(key, failure(key))) in play.ann(m.GiveFailure(key, failure(key)))
        play.ann(submit(f"after-{key}", key))
    assert play.states() == dict.fromkeys(("x", "y", "after-x", "after-y"), "erred")
    assert play.task("after-y").failure == failure("y")
    assert tell("bob", m.KeyErred("x", failure("x"))) in play.bob(m.Want(["x"]))


def test_a_failure_that_is_given_is_no_end_of_what_is_known() -> None:
    """Another client has submitted it meanwhile, and it runs."""
    play = Play("w")
    play.bob(submit("x"))
    assert play.ann(m.GiveFailure("x", failure("x"))) == []
    play.worker("w", finished("x", 1))
    assert play.states() == {"x": "memory"}


def test_a_failure_that_was_given_can_not_be_retried_and_says_so() -> None:
    """Nobody knows what it was."""
    play = Play("w")
    play.ann(m.GiveFailure("x", failure("x")))
    (told,) = play.ann(m.Retry(["x"]))
    assert (told.message.key, told.message.kind) == ("x", "lost")
    assert "submit it again" in told.message.reason
    assert play.states() == {}


def test_a_failure_that_was_given_stands_until_somebody_retries_it() -> None:
    """As any failure of a key that is submitted again; from then on it is known what it was."""
    play = Play("w")
    play.ann(m.GiveFailure("y", failure("y")))
    assert play.bob(submit("y")) == [tell("bob", m.KeyErred("y", failure("y")))]
    assert runs(play.ann(m.Retry(["y"]))) == [("w", "y")]


def new(key: str, **more: Any) -> m.Submit:
    """A call whose user chose its key, and makes it now."""
    return msgspec.structs.replace(submit(key, **more), is_new=True)


def test_a_new_call_under_a_chosen_key_takes_nothing_that_was_made_before() -> None:
    """The key may have meant other work; what workers have of it, or run, goes, whenever they come."""
    play = Play()
    play.join("w")
    play.worker("w", m.Inventory([("x", LARGE, "/x")], [("y", b"1")], [("z", FUNCTION)], True))
    sent = play.ann(new("x", args=b"other"), new("y"), new("z"))
    assert sent[:2] == [Send("w", m.Free(["x"])), Send("w", m.Free(["y"]))]
    assert [(type(one.message), one.message.key, one.message.anew) for one in sent[2:]] == [
        (m.Run, "x", True), (m.Run, "y", True), (m.Run, "z", True),
    ]  # fmt: skip
    play.join("v")
    late = play.worker("v", m.Inventory([("x", LARGE, "/x")], [("y", b"1")], [("z", FUNCTION)], True))
    assert late == [Send("v", m.Free(["y", "x"]))]
    play.worker("w", *(finished(key, play.task(key).attempt, None) for key in ("x", "y", "z")))
    assert play.task("x").holder_paths() == {play.state.workers["w"]: "/x"}
    play.join("u")
    assert play.worker("u", m.Inventory([("x", LARGE, "/x")], [], [], True)) == [Send("u", m.Free(["x"]))]
    play.ann(m.Release(["x", "y", "z"]))
    assert not play.state.renounced


def test_a_new_call_that_a_journal_tells_of_is_not_new_any_more() -> None:
    """What workers have of it was made for it, and may be all there is."""
    play = Play()
    play.state.replaying = True
    play.ann(new("x"))
    assert not play.state.renounced


def test_a_call_that_is_sent_again_takes_what_was_made_of_it() -> None:
    """Its client knows that it is the same."""
    play = Play("w")
    play.worker("w", m.Inventory([("x", LARGE, "/x")], [], [], True))
    assert not runs(play.ann(submit("x")))
    assert play.states() == {"x": "memory"}


@pytest.mark.parametrize("cancels", [False, True])
def test_a_key_that_is_let_go_of_is_free_for_another_call_at_once(cancels: bool) -> None:
    """Both come in one envelope when a program does one after the other."""
    play = Play("w")
    play.ann(new("x"))
    give_up: list[m.Message] = [m.Cancel(["x"])] if cancels else []
    sent = play.ann(*give_up, m.Release(["x"]), new("x", args=b"other"))
    assert [one.message for one in sent if isinstance(one.message, m.Drop)] == [m.Drop("x", 1)]
    assert runs(sent) == [("w", "x")]
    assert not [one for one in sent if isinstance(one.message, m.KeyCancelled) and one.message.kind == "duplicate"]
    assert play.task("x").args == b"other"


def test_what_a_worker_kept_of_a_call_on_failure_is_its_result() -> None:
    """The scheduler before this had made the call, and this one knows of the failure only now."""
    play = Play("w")
    play.worker("w", m.Inventory([("undo", LARGE, "/undo")], [], [], True))
    play.ann(submit("x"), m.OnFailure("x", [m.PlannedCall(FUNCTION, "undo", b"")]))
    assert not runs(play.worker("w", m.Erred("x", 1, failure("x"))))
    assert not play.state.claims
