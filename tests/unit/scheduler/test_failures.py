"""What goes wrong: errors that travel, retries, executors and workers that end, inputs that are gone."""

from __future__ import annotations

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import Forget, Send, WorkerLost
from tests.unit.scheduler.play import BIG, LARGE, Play, failure, finished, runs, submit, tell


def test_an_error_reaches_every_dependent_with_one_root_cause() -> None:
    """Whoever asks for the last task of a graph learns which task failed first."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"), submit("c", "b"))
    cause = failure("a")
    assert play.worker("w", m.Erred("a", 1, cause)) == [
        tell("ann", m.KeyErred("a", cause)),
        Send("w", m.Drop("b", 2)),
        tell("ann", m.KeyErred("b", cause)),
        Send("w", m.Drop("c", 3)),
        tell("ann", m.KeyErred("c", cause)),
    ]


def test_an_error_leaves_others_alone() -> None:
    """Only what depends on the failed task fails."""
    play = Play("w")
    play.ann(submit("a"), submit("b"), submit("c", "b"))
    play.worker("w", m.Erred("a", 1, failure("a")))
    assert play.states() == {"a": "erred", "b": "processing", "c": "processing"}


def test_a_dependent_submitted_after_the_error_fails_at_once() -> None:
    """It must not wait for something that won't come."""
    play = Play("w")
    play.ann(submit("a"))
    cause = failure("a")
    play.worker("w", m.Erred("a", 1, cause))
    assert play.ann(submit("b", "a")) == [tell("ann", m.KeyErred("b", cause))]


def test_a_failed_task_is_forgotten_with_its_last_future() -> None:
    """Errors are kept as results are: while somebody may ask."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"))
    play.worker("w", m.Erred("a", 1, failure("a")))
    play.ann(m.Release(["a"]))
    assert play.states() == {"a": "erred", "b": "erred"}
    play.ann(m.Release(["b"]))
    assert play.states() == {}


def test_a_task_with_retries_runs_again() -> None:
    """The client hears of the last failure only."""
    play = Play("w")
    play.ann(submit("x", retries=1))
    assert play.worker("w", m.Erred("x", 1, failure("x"))) == [play.run("w", "x", 2)]
    cause = failure("x")
    assert play.worker("w", m.Erred("x", 2, cause)) == [tell("ann", m.KeyErred("x", cause))]


def test_what_was_sent_to_follow_a_retried_task_is_pulled_back() -> None:
    """The worker has forgotten it: its input failed there."""
    play = Play("w", slots=4)
    play.ann(submit("a", retries=1), submit("b", "a"))
    assert play.worker("w", m.Erred("a", 1, failure("a"))) == [
        Send("w", m.Drop("b", 2)),
        play.run("w", "a", 3),
        play.run("w", "b", 4, m.Held("a")),
    ]


def test_retry_starts_from_the_task_that_failed_first() -> None:
    """Asking for the last task again is enough."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"))
    play.worker("w", m.Erred("a", 1, failure("a")))
    assert play.ann(m.Retry(["b"])) == [
        tell("ann", m.KeyLost("a")),
        tell("ann", m.KeyLost("b")),
        play.run("w", "a", 3),
        play.run("w", "b", 4, m.Held("a")),
    ]


def test_retry_gives_back_all_retries() -> None:
    """It is a fresh start."""
    play = Play("w")
    play.ann(submit("x", retries=1))
    play.worker("w", m.Erred("x", 1, failure("x")))
    play.worker("w", m.Erred("x", 2, failure("x")))
    play.ann(m.Retry(["x"]))
    assert runs(play.worker("w", m.Erred("x", 3, failure("x")))) == [("w", "x")]


def test_a_retry_that_fails_again_at_once_is_told_last() -> None:
    """Told in the other order a client would wait for what has failed."""
    play = Play("w")
    play.ann(m.PutValue("d", BIG))
    play.worker("w", m.Stored("d", len(BIG), "/d"))
    play.ann(submit("a"), submit("y", "a", "d"), submit("z", "y", "a"))
    play.worker("w", m.Erred("a", 2, failure("a")))
    play.handle(WorkerLost("w"))
    last = {one.message.key: type(one.message) for one in play.ann(m.Retry(["z"]))}
    assert last == {"a": m.KeyLost, "y": m.KeyErred, "z": m.KeyErred}
    assert play.states() == {"d": "erred", "a": "no_worker", "y": "erred", "z": "erred"}


def test_retry_of_what_did_not_fail_does_nothing() -> None:
    """It is safe to ask twice."""
    play = Play("w")
    play.ann(submit("x"))
    assert play.ann(m.Retry(["x"])) == []


def test_retry_of_what_needs_lost_data_says_so_again() -> None:
    """The task can't be run before the data is scattered anew; a client that heard nothing would wait for ever."""
    play = Play("w")
    play.ann(m.PutValue("d", BIG))
    play.worker("w", m.Stored("d", len(BIG), "/d"))
    play.ann(submit("x", "d"))
    play.handle(WorkerLost("w"))
    failed = play.task("x").failure
    assert failed is not None
    assert play.ann(m.Retry(["x"])) == [tell("ann", m.KeyErred("x", failed))]


def test_retry_of_an_unknown_key_is_answered() -> None:
    """It failed at a scheduler that was restarted since; a client that heard nothing would wait for ever."""
    play = Play("w")
    (answer,) = play.ann(m.Retry(["unknown"]))
    assert (answer.peer, answer.message.key, answer.message.kind) == ("ann", "unknown", "lost")


def test_a_task_that_ends_its_executor_fails_after_allowed_deaths() -> None:
    """One bad task must not take down executors for ever."""
    play = Play("w", allowed_failures=1)
    play.ann(submit("x"))
    assert play.worker("w", m.ExecutorDied("x", 1, "SIGSEGV")) == [play.run("w", "x", 2)]
    (command,) = play.worker("w", m.ExecutorDied("x", 2, "SIGSEGV"))
    assert command.message.failure.type == "ExecutorDiedError"
    assert command.message.failure.fields == ["x", "w", "SIGSEGV", 2]


def test_a_task_that_only_went_with_its_executor_is_not_counted() -> None:
    """It waited for the one to blame; and one that must not run twice had begun all the same."""
    play = Play("w", allowed_failures=0)
    play.ann(submit("x"), submit("y", at_most_once=True))
    assert play.worker("w", m.ExecutorDied("x", 1, "9", innocent=True)) == [play.run("w", "x", 3)]
    assert play.task("x").deaths == 0
    play.worker("w", m.ExecutorDied("y", 2, "9", innocent=True))
    assert play.states() == {"x": "processing", "y": "erred"}


def test_a_task_that_waited_is_blamed_for_a_worker_on_which_nothing_else_ran() -> None:
    """It may have ended the worker; beside one that ran it isn't suspected."""
    play = Play("w1", slots=1, allowed_failures=1)
    play.ann(submit("x"))
    play.worker("w1", m.TaskAway("x", 1))
    play.ann(submit("y"))
    play.handle(WorkerLost("w1"))
    assert (play.task("x").deaths, play.task("y").deaths) == (0, 1)
    play.ann(m.Release(["y"]))
    for number in (2, 3):
        play.join(f"w{number}", 1)
        play.worker(f"w{number}", m.TaskAway("x", play.task("x").attempt))
        play.handle(WorkerLost(f"w{number}"))
    assert play.states() == {"x": "erred"}
    failed = play.task("x").failure
    assert failed is not None
    assert failed.type == "WorkerLostError"


def test_a_task_handed_back_runs_elsewhere_without_blame() -> None:
    """It had not begun."""
    play = Play("w", allowed_failures=0)
    play.ann(submit("x"))
    assert runs(play.worker("w", m.GaveBack("x", 1))) == [("w", "x")]
    assert play.task("x").deaths == 0


def test_an_old_attempt_can_not_fail_a_task() -> None:
    """Each report names its attempt; only the one that is held counts."""
    play = Play("w")
    play.ann(submit("x", retries=5))
    play.worker("w", m.Erred("x", 1, failure("x")))
    for report in (m.Erred("x", 1, failure("x")), m.ExecutorDied("x", 1, "9"), m.GaveBack("x", 1), finished("x", 1)):
        commands = play.worker("w", report)
        assert runs(commands) == []
    assert play.states() == {"x": "processing"}
    assert play.state.counters["stale"] == 4


def test_tasks_of_a_lost_worker_go_to_another() -> None:
    """Nobody submits again because a machine went away."""
    play = Play("w", slots=2)
    play.ann(submit("x"), submit("y"))
    play.join("v")
    assert play.handle(WorkerLost("w")) == [Forget("w"), play.run("v", "x", 3), play.run("v", "y", 4)]


def test_with_no_worker_left_tasks_wait_for_one() -> None:
    """They are not failed, and the next worker gets them."""
    play = Play("w")
    play.ann(submit("x"))
    assert play.handle(WorkerLost("w")) == [Forget("w")]
    assert play.states() == {"x": "no_worker"}
    assert play.join("v") == [play.run("v", "x", 2)]


def test_a_task_that_loses_worker_after_worker_fails() -> None:
    """Poison that kills whole machines must stop as well."""
    play = Play(allowed_failures=1)
    play.ann(submit("x"))
    play.join("w")
    play.handle(WorkerLost("w"))
    play.join("v")
    (told, forgotten) = play.handle(WorkerLost("v"))
    assert told.message.failure.type == "WorkerLostError"
    assert told.message.failure.fields == ["x", "v", 2]
    assert forgotten == Forget("v")


def test_poison_is_blamed_even_when_its_input_goes_with_the_worker() -> None:
    """Tasks run where their inputs lie, so this is the common case."""
    play = Play("w", allowed_failures=0)
    play.ann(submit("a"))
    play.worker("w", finished("a", 1, BIG))
    play.ann(submit("x", "a"))
    play.handle(WorkerLost("w"))
    assert play.states() == {"a": "no_worker", "x": "erred"}


def test_only_what_can_have_been_running_is_blamed() -> None:
    """One task a slot; the rest stood in line."""
    play = Play("w", slots=1, allowed_failures=0)
    play.ann(submit("x"), submit("y"))
    play.handle(WorkerLost("w"))
    assert play.states() == {"x": "erred", "y": "no_worker"}


def test_a_worker_that_said_goodbye_is_not_blamed_on_its_tasks() -> None:
    """Scaling down is no failure."""
    play = Play("w", allowed_failures=0)
    play.ann(submit("x"))
    play.handle(WorkerLost("w", expected=True))
    assert play.states() == {"x": "no_worker"}


def test_a_lost_result_is_computed_again_with_its_inputs() -> None:
    """As deep as necessary, and the client is told that it has to wait."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"), m.Release(["a"]))
    play.worker("w", finished("a", 1, BIG), finished("b", 2, BIG))
    play.join("v")
    assert play.handle(WorkerLost("w")) == [
        tell("ann", m.KeyLost("b")),
        Forget("w"),
        play.run("v", "a", 3),
        play.run("v", "b", 4, m.Held("a", len(BIG))),
    ]


def test_a_lost_result_nobody_needs_is_not_computed_again() -> None:
    """Released lineage stays released."""
    play = Play("w", "v")
    play.ann(submit("a", workers=("w",)), submit("b", "a", workers=("v",)), m.Release(["a"]))
    play.worker("w", finished("a", 1, BIG))
    play.worker("v", finished("b", 2, BIG))
    assert play.handle(WorkerLost("w")) == [Forget("w")]
    assert play.states() == {"a": "released", "b": "memory"}


def test_ready_tasks_wait_again_when_an_input_is_lost() -> None:
    """A task is never sent with an input that isn't there."""
    play = Play("w", "v", slots=1)
    play.ann(submit("a", workers=("w",)))
    play.worker("w", finished("a", 1, BIG, seconds=1.0))
    play.ann(submit("f", workers=("v",)), submit("g", workers=("v",)), submit("b", "a", workers=("v",)))
    assert play.states()["b"] == "queued"
    play.handle(WorkerLost("w"))
    assert play.states()["b"] == "waiting"
    assert play.states()["a"] == "no_worker"


def test_a_task_already_sent_keeps_its_place_when_its_input_is_lost() -> None:
    """It may have fetched it; it says so if not, and then the input is made again."""
    play = Play("w", "v")
    play.ann(submit("a", workers=("w",)))
    play.worker("w", finished("a", 1, None))
    play.ann(submit("b", "a", workers=("v",)), m.Release(["a"]))
    play.join("w2")
    assert play.handle(WorkerLost("w")) == [Forget("w")]
    assert play.states() == {"a": "released", "b": "processing"}
    play.worker("v", m.InputsMissing("b", 2, [("a", "w")]))
    assert play.states() == {"a": "no_worker", "b": "waiting"}


def test_a_holder_without_the_input_is_not_asked_again() -> None:
    """The scheduler corrects its books, frees what may lie there all the same, and has the input made again."""
    play = Play("w", "v")
    play.ann(submit("a", workers=("w",)), submit("b", "a", workers=("v",)), m.Release(["a"]))
    play.worker("w", finished("a", 1, None))
    assert play.worker("v", m.InputsMissing("b", 2, [("a", "w")])) == [
        play.run("w", "a", 3),
        Send("w", m.Free(["a"])),
    ]
    assert play.states() == {"a": "processing", "b": "waiting"}


def test_an_input_missing_where_it_was_made_is_made_again() -> None:
    """A worker names no holder for what it should have had itself."""
    play = Play("w")
    play.ann(submit("a"))
    play.worker("w", finished("a", 1, None))
    play.ann(submit("b", "a"))
    commands = play.worker("w", m.InputsMissing("b", 2, [("a", "")]))
    assert runs(commands) == [("w", "a"), ("w", "b")]


def test_lost_scattered_data_fails_what_depends_on_it() -> None:
    """Nothing can bring it back, and the error says what to do."""
    play = Play("w")
    play.ann(m.PutValue("d", BIG))
    play.worker("w", m.Stored("d", len(BIG), "/d"))
    play.ann(submit("x", "d"))
    told = play.handle(WorkerLost("w"))
    assert [one.message.key for one in told[:2]] == ["d", "x"]
    assert {one.message.failure.type for one in told[:2]} == {"DataLostError"}
    assert "scatter it again" in told[0].message.failure.message


def test_who_waits_for_a_part_from_a_lost_worker_is_told() -> None:
    """Otherwise it would wait until its patience ends."""
    play = Play("w", "v")
    play.ann(submit("a", workers=("w",)))
    play.worker("w", finished("a", 1, None))
    play.worker("v", m.DataWanted(7, "a", 0, LARGE, "w"))
    assert Send("v", m.DataPart(7, "a", 0, -1, b"", "v")) in play.handle(WorkerLost("w"))


def test_nothing_is_sent_to_a_lost_worker() -> None:
    """Drops for what followed on it would go to nobody."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"), submit("c", "b"))
    assert play.handle(WorkerLost("w")) == [Forget("w")]
