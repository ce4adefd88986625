"""What workers kept of their time with a former scheduler."""

from __future__ import annotations

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import Send, WorkerBeat, WorkerLost
from tests.unit.scheduler.play import BIG, Play, finished, runs, submit, tell

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


def test_a_result_that_comes_too_late_is_freed_unless_it_is_made_there_again() -> None:
    """A Free there would take the new result."""
    play = Play("w", "v")
    play.ann(submit("x"))
    worker = play.task("x").worker
    assert worker is not None
    place = worker.worker_id
    other = "v" if place == "w" else "w"
    assert play.worker(other, HELD) == [Send(other, m.Free(["x"]))]
    assert play.worker(place, HELD) == []
    play.worker(place, finished("x", 1, BIG))
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
