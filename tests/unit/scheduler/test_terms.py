"""What is agreed for single tasks: a time to run at, an end to begin by, runs again, calls on failure, results kept."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import Reported
from futurebroker.scheduler import checkpoint, viewing
from futurebroker.scheduler.commands import ClientGone, Send, Tick, WorkerLost
from futurebroker.scheduler.notes import KEPT, Note, Notes
from futurebroker.scheduler.records import TaskRecord
from tests.unit.scheduler.play import FUNCTION, Play, failure, finished, runs, submit
from tests.unit.scheduler.projection import projection, replayed
from tests.unit.scheduler.test_promises import recorded


def agreed(key: str, *dependencies: str, options: dict[str, Any] | None = None, **conditions: Any) -> m.Submit:
    """A call with conditions."""
    made = m.TaskOptions(**options) if options else None
    return m.Submit(FUNCTION, [key], [b""], [dependencies], made, "", [m.Conditions(**conditions)])


def later(play: Play, now: float) -> list[Any]:
    """Time goes by."""
    play.now = now
    return play.handle(Tick())


def test_a_task_is_held_until_its_time() -> None:
    """No worker holds what may not run yet; it is sent when its time comes."""
    play = Play("w")
    assert runs(play.ann(agreed("x", eta=10.0))) == []
    assert play.states() == {"x": "scheduled"}
    assert "may run in 10.0 s" in play.why("x")
    assert runs(later(play, 9.9)) == []
    assert runs(later(play, 10.0)) == [("w", "x")]


def test_time_counts_also_for_a_task_that_waits_for_others() -> None:
    """A countdown and a dependency must both be over; a chain isn't sent ahead to where it can't begin."""
    play = Play("w")
    assert runs(play.ann(submit("a"), agreed("b", "a", eta=5.0))) == [("w", "a")]
    play.worker("w", finished("a", 1))
    assert play.states()["b"] == "scheduled"
    assert runs(later(play, 5.0)) == [("w", "b")]


def test_what_is_released_before_its_time_is_forgotten() -> None:
    """Its timer goes with it."""
    play = Play("w")
    play.ann(agreed("x", eta=10.0))
    play.ann(m.Release(["x"]))
    assert play.states() == {}
    assert len(play.state.timers) == 0


def test_a_task_that_has_expired_is_not_begun() -> None:
    """What had to begin by a time and didn't is revoked, and so is what depends on it."""
    play = Play()
    play.ann(agreed("x", expires=5.0), submit("y", "x"))
    commands = later(play, 5.0)
    told = {one.message.key: one.message.failure for one in commands if isinstance(one.message, m.KeyErred)}
    assert {key: (one.type, one.message) for key, one in told.items()} == {
        "x": ("TaskRevokedError", "expired"),
        "y": ("TaskRevokedError", "expired"),
    }


def test_a_task_that_has_begun_does_not_expire() -> None:
    """Expiry is about beginning: the worker is asked, and what runs runs on."""
    play = Play("w")
    play.ann(agreed("x", expires=5.0))
    commands = later(play, 5.0)
    assert [type(one.message) for one in commands] == [m.GiveBack]
    play.worker("w", finished("x", 1))
    assert play.states() == {"x": "memory"}


def test_a_task_asks_to_be_run_again_later() -> None:
    """It keeps its key, its dependents and its arguments, and says how often it asked."""
    play = Play("w")
    play.ann(submit("x"), submit("y", "x"))
    play.worker("w", m.Continue("x", 1, 5, delay=3.0, retries=1, failure=failure("x")))
    assert play.states() == {"x": "scheduled", "y": "waiting"}
    commands = later(play, 3.0)
    (sent,) = [one.message for one in commands if isinstance(one.message, m.Run) and one.message.key == "x"]
    assert sent.terms == m.RunTerms(retries=1)
    play.worker("w", finished("x", sent.attempt))
    assert play.states()["x"] == "memory"


def test_a_task_goes_on_with_the_result_of_another() -> None:
    """As a task that is replaced does: other arguments, other dependencies, the same key."""
    play = Play("w")
    play.ann(submit("x"), submit("end", "x"))
    play.ann(submit("new"))
    play.worker("w", m.Continue("x", 1, 5, args=b"deliver", inputs=["new"]))
    assert play.states()["x"] in ("waiting", "processing")
    assert play.task("x").dependencies == (play.task("new"),)
    play.worker("w", finished("new", play.task("new").attempt, b"n"))
    play.worker("w", finished("x", play.task("x").attempt, b"n"))
    assert play.states()["end"] == "processing"


def test_what_was_sent_ahead_of_a_task_that_goes_on_is_taken_back() -> None:
    """The worker drops what followed on the attempt that is over; it is sent again when there is a result."""
    play = Play("w")
    play.worker("w")
    play.ann(submit("x"), submit("y", "x"), submit("new"))
    attempt = play.task("x").attempt
    play.worker("w", m.Continue("x", attempt, 5, args=b"deliver", inputs=["new"]))
    play.worker("w", finished("new", play.task("new").attempt, b"n"))
    play.worker("w", finished("x", play.task("x").attempt, b"n"))
    play.worker("w", finished("y", play.task("y").attempt, b"y"))
    assert play.states() == {"x": "memory", "y": "memory", "new": "memory"}


def test_a_task_that_goes_on_with_what_failed_fails() -> None:
    """Its dependents get the same root cause."""
    play = Play("w")
    play.ann(submit("x"), submit("new"))
    play.worker("w", m.Erred("new", play.task("new").attempt, failure("new")))
    play.worker("w", m.Continue("x", play.task("x").attempt, 5, args=b"", inputs=["new"]))
    assert play.states()["x"] == "erred"
    assert play.task("x").failure == failure("new")


def test_a_task_that_goes_on_with_what_nobody_knows_fails_and_says_so() -> None:
    """Nothing hangs."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", m.Continue("x", 1, 5, args=b"", inputs=["gone"]))
    failed = play.task("x").failure
    assert failed is not None
    assert "gone" in failed.message


def test_revoked_is_what_has_not_begun_and_all_that_depends_on_it() -> None:
    """A sub-graph goes with its root; the error says so."""
    play = Play()
    play.ann(submit("x"), submit("y", "x"), submit("z", "y"))
    play.ann(m.Ask(1, "revoke", [["x"], False]))
    assert play.states() == {"x": "erred", "y": "erred", "z": "erred"}
    assert {task.failure.type for task in play.state.tasks.values() if task.failure} == {"TaskRevokedError"}


def test_an_id_is_revoked_before_its_task_comes() -> None:
    """Who revokes and who submits may be different programs."""
    play = Play("w")
    play.ann(m.Ask(1, "revoke", [["x"], False]))
    assert runs(play.ann(submit("x"))) == []
    assert play.states() == {"x": "erred"}


def test_what_runs_is_left_alone_unless_it_is_to_be_terminated() -> None:
    """As in Celery; with terminate its executor is ended, and nobody waits for a report."""
    play = Play("w")
    play.ann(submit("x"))
    play.ann(m.Ask(1, "revoke", [["x"], False]))
    assert play.states() == {"x": "processing"}
    commands = play.ann(m.Ask(2, "revoke", [["x"], True]))
    assert Send("w", m.Kill("x", 1)) in commands
    assert play.states() == {"x": "erred"}


def test_what_was_sent_and_not_begun_is_revoked_when_it_comes_back() -> None:
    """The worker is asked whether it has begun."""
    play = Play("w")
    play.ann(submit("x"))
    commands = play.ann(m.Ask(1, "revoke", [["x"], False]))
    assert Send("w", m.GiveBack([("x", 1)])) in commands
    play.worker("w", m.GaveBack("x", 1))
    assert play.states() == {"x": "erred"}


def test_what_was_revoked_is_not_begun_again_when_its_worker_is_lost() -> None:
    """The worker may go before it says whether it had begun."""
    play = Play("w")
    play.ann(submit("x"))
    play.ann(m.Ask(1, "revoke", [["x"], False]))
    play.handle(WorkerLost("w"))
    assert play.states() == {"x": "erred"}


def test_what_was_revoked_is_not_run_again_though_it_asks_for_it() -> None:
    """As in Celery, whose workers look at the id before each run."""
    play = Play("w")
    play.ann(submit("x"))
    play.ann(m.Ask(1, "revoke", [["x"], False]))
    play.worker("w", m.Continue("x", 1, 5, delay=3.0, retries=1))
    assert play.states() == {"x": "erred"}


def test_what_was_revoked_and_had_begun_is_finished_after_a_restart_as_well() -> None:
    """A replay doesn't know what ran where, and must not revoke what had begun."""
    play, facts = recorded("w")
    play.ann(submit("x"), submit("y", "x"))
    play.ann(m.Ask(1, "revoke", [["x"], False]))
    play.worker("w", finished("x", 1))
    assert play.states()["x"] == "memory"
    again = replayed(facts, play.state.policy)
    assert projection(again)["tasks"]["x"]["state"] == "kept"
    assert projection(again)["extras"]["terms"] == projection(play.state)["extras"]["terms"]


def test_time_to_begin_runs_out_after_a_checkpoint_too() -> None:
    """Whoever restores a scheduler looks at the time of what it restores."""
    play, facts = recorded()
    play.ann(agreed("x", expires=5.0))
    loaded = replayed([], play.state.policy, list(checkpoint.dump(replayed(facts, play.state.policy))))
    loaded.now = 6.0
    loaded.replaying = False
    loaded.timers.run_due(6.0)
    assert loaded.tasks["x"].state.value == "erred"


def test_a_state_of_the_tasks_own_survives_the_scheduler() -> None:
    """Who looks at a bar of progress sees it go on where it was."""
    play, facts = recorded("w")
    play.ann(submit("x"))
    play.worker("w", m.Said("state", "x", ["PROGRESS", b"1"]), m.Said("state", "x", ["PROGRESS", b"2"]))
    (row,) = projection(replayed(facts, play.state.policy))["extras"]["terms"].values()
    assert row.custom == ("PROGRESS", b"2")
    assert [len(fact.messages) for fact in facts if isinstance(fact, Reported)] == [1]


def test_who_waits_for_a_key_that_comes_later_waits_on_after_a_restart() -> None:
    """An id is known to one program, the scheduler is restarted, and only then the other submits its task."""
    play, facts = recorded()
    play.bob(m.Await(["x"]))
    again = replayed(facts, play.state.policy)
    loaded = replayed([], play.state.policy, list(checkpoint.dump(again)))
    assert [one.client_id for one in loaded.expected["x"]] == ["bob"]


def test_who_asks_for_a_failed_task_to_be_tried_again_has_it_run() -> None:
    """A task must not run twice by itself; it may when somebody says so, who knows what it did."""
    play = Play("w")
    play.ann(submit("x", at_most_once=True))
    play.worker("w", m.Erred("x", 1, failure("x")))
    assert runs(play.ann(m.Retry(["x"]))) == [("w", "x")]


def planned(of: str, key: str = "e") -> m.OnFailure:
    """A call for the case that ``of`` fails."""
    return m.OnFailure(of, [m.PlannedCall(FUNCTION, key, b"args")])


def test_a_planned_call_is_made_when_the_task_fails() -> None:
    """It is told the failure, and nobody needs to wait for it."""
    play = Play("w")
    play.ann(submit("x"), planned("x"))
    commands = play.worker("w", m.Erred("x", 1, failure("x")))
    (sent,) = [one.message for one in commands if isinstance(one.message, m.Run)]
    assert sent.key == "e"
    assert sent.terms == m.RunTerms(failure=failure("x"))
    play.worker("w", finished("e", sent.attempt))
    assert "e" not in play.states()


def test_a_planned_call_is_not_made_when_the_task_ends_well() -> None:
    """And what it would have needed is let go."""
    play = Play("w")
    play.ann(submit("x"), planned("x"))
    assert play.state.functions[FUNCTION].planned == 1
    assert runs(play.worker("w", finished("x", 1))) == []
    assert play.state.functions[FUNCTION].planned == 0


def test_only_the_task_that_failed_first_makes_its_calls() -> None:
    """What fails with it has failed, and calls nobody, as in Celery; but a chord's body does."""
    play = Play("w")
    play.ann(submit("x"), submit("y", "x"), planned("y", "e1"), agreed("body", "x", joins=True), planned("body", "e2"))
    commands = play.worker("w", m.Erred("x", 1, failure("x")))
    assert [key for _, key in runs(commands)] == ["e2"]


def test_a_plan_that_comes_late_is_made_at_once() -> None:
    """The task may fail before its client has said what is to follow."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", m.Erred("x", 1, failure("x")))
    play.ann(planned("x"))
    assert play.states()["e"] == "processing"


def test_what_is_kept_outlives_its_client_and_its_time_runs_from_the_end() -> None:
    """A result is there for whoever asks, for so many seconds."""
    play = Play("w")
    play.ann(submit("x", keep=100.0))
    play.handle(ClientGone("ann"))
    assert play.states() == {"x": "processing"}
    later(play, 50.0)
    play.worker("w", finished("x", 1))
    later(play, 149.0)
    assert play.states() == {"x": "memory"}
    later(play, 150.0)
    assert play.states() == {}


def test_of_what_is_unwanted_failures_are_kept_if_it_says_so() -> None:
    """`store_errors_even_if_ignored`: a result goes at once, a failure is there for who asks."""
    play, facts = recorded("w")
    play.ann(submit("x", unwanted=True, keep=60.0), submit("y", unwanted=True, keep=60.0), m.Release(["x", "y"]))
    play.worker("w", finished("x", play.task("x").attempt), m.Erred("y", play.task("y").attempt, failure("y")))
    assert play.states() == {"y": "erred"}
    assert projection(replayed(facts, play.state.policy))["tasks"] == projection(play.state)["tasks"]
    play.now = 61.0
    play.handle(Tick())
    assert play.states() == {}


def test_what_is_unwanted_runs_to_its_end() -> None:
    """``ignore_result``: it runs, and nothing is kept."""
    play = Play("w")
    play.ann(submit("x", unwanted=True), m.Release(["x"]))
    assert play.states() == {"x": "processing"}
    play.worker("w", finished("x", 1))
    assert play.states() == {}


def test_who_waits_for_a_key_that_comes_later_gets_it() -> None:
    """An id may be known to one program before the other has submitted its task."""
    play = Play("w")
    play.bob(m.Await(["x"]))
    play.ann(submit("x"))
    commands = play.worker("w", finished("x", 1))
    assert {one.peer for one in commands if isinstance(one.message, m.KeyFinished)} == {"ann", "bob"}


def test_who_waits_for_data_that_comes_later_gets_it() -> None:
    """Scattered data has keys as well."""
    play = Play("w")
    play.bob(m.Await(["x"]))
    commands = play.ann(m.PutValue("x", b"1"))
    assert {one.peer for one in commands if isinstance(one.message, m.KeyFinished)} == {"ann", "bob"}


def test_a_task_that_must_not_run_twice_fails_with_its_executor() -> None:
    """``acks_late=False``: what had begun is not begun again."""
    play = Play("w")
    play.ann(submit("x", at_most_once=True), submit("y"))
    play.worker("w", m.ExecutorDied("x", 1, "SIGKILL"), m.ExecutorDied("y", 2, "SIGKILL"))
    assert play.states() == {"x": "erred", "y": "processing"}
    failed = play.task("x").failure
    assert failed is not None
    assert failed.type == "WorkerLostError"


def test_a_task_that_ran_too_long_fails_and_says_how_long_it_may() -> None:
    """Its executor was ended for it, once: it isn't tried again."""
    play = Play("w")
    play.ann(submit("x", time_limit=2.0))
    play.ann(m.Ask(1, "control", ["time_limit", None, ["f", 0.0, 9.0]]))
    play.worker("w", m.ExecutorDied("x", 1, "TimeLimitExceeded 2"))
    failed = play.task("x").failure
    assert failed is not None
    assert (failed.type, failed.fields) == ("TimeLimitExceeded", [2.0])


def test_a_state_of_the_tasks_own_lasts_until_it_ends() -> None:
    """`update_state` is seen by whoever asks, and the result takes its place."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", m.Said("state", "x", ["PROGRESS", b"meta"]))
    assert play.state.tasks["x"].terms is not None
    (answer,) = play.bob(m.Ask(1, "task_metas", [["x"]][0]))
    assert answer.message.value[0]["status"] == "PROGRESS"
    play.worker("w", finished("x", 1))
    (answer,) = play.bob(m.Ask(2, "task_metas", ["x", "unknown"]))
    assert [meta and meta["status"] for meta in answer.message.value] == ["SUCCESS", None]


def test_tasks_go_to_workers_that_take_from_their_queue() -> None:
    """A worker that names queues takes from these alone; one that names none takes from all."""
    play = Play()
    play.join("any")
    play.state.workers["any"].queues = None
    assert runs(play.ann(submit("x", queue="mail"))) == [("any", "x")]
    play.state.workers["any"].queues = {"other": None}
    play.join("second")
    play.state.workers["second"].queues = {"mail": None}
    play.ann(submit("warm", workers=("second",)))
    assert "taking from the queue" in play.why("warm")


def test_notes_of_executors_are_kept_for_who_looks_at_a_task() -> None:
    """They come before the report; what a task has made up is counted and does no harm."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", m.Said("notes", "", [[["x", 5.0, "1, 2", "3", "printed"]], 2]), finished("x", 1))
    found = viewing.task(play.state, "x")
    assert found is not None
    assert found["note"] == {"at": 5.0, "worker": "w", "arguments": "1, 2", "result": "3", "output": "printed"}
    assert play.state.counters["notes left out"] == 2
    for about in (None, 7, [], [[["x"]], 0], [[["x", "soon", "", "", ""]], 0], [[], "many"]):
        play.worker("w", m.Said("notes", "", about))
    assert play.state.counters["unexpected"] == 6


def test_only_the_newest_notes_are_kept() -> None:
    """A scheduler that runs for months remembers megabytes of what was printed, not all."""
    notes = Notes()
    for number in range(1_000):
        notes.add(Note(f"k{number}", 0.0, "", "", "x" * 15_000))
    assert notes.get("k0") is None
    kept = [number for number in range(1_000) if notes.get(f"k{number}") is not None]
    assert kept[-1] == 999
    assert KEPT // 16_000 < len(kept) <= KEPT // 15_000
    for _ in range(1_000):
        notes.add(Note("same", 0.0, "", "", "x" * 15_000))
    assert notes.get("k999") is not None


def test_what_is_given_up_with_another_is_released_also_after_a_restart() -> None:
    """Both inputs of z are revoked: with the first z fails, and then nobody needs the second."""
    play, facts = recorded()
    play.ann(submit("x"), submit("y"), submit("z", "x", "y"), m.Release(["x", "y"]))
    play.ann(m.Ask(1, "revoke", [["x", "y"], False]))
    assert play.states() == {"x": "erred", "y": "released", "z": "erred"}
    assert projection(replayed(facts, play.state.policy))["tasks"] == projection(play.state)["tasks"]


def test_tasks_are_revoked_by_their_stamps_also_after_a_restart() -> None:
    """Those that are there, and those that come; the stamps are remembered as ids are."""
    play, facts = recorded()
    play.ann(agreed("x", stamps={"tenant": ["a", "b"]}), agreed("y", stamps={"tenant": ["c"]}), agreed("z", parent="p"))
    answers = [
        one for one in play.ann(m.Ask(1, "revoke_stamped", [{"tenant": ["b", "later"]}, False])) if one.peer == "ann"
    ]
    assert answers[-1].message.value == ["x"]
    play.ann(agreed("w", stamps={"tenant": ["later"]}), agreed("v", stamps={"other": ["later"]}))
    assert play.states() == {"x": "erred", "y": "no_worker", "z": "no_worker", "w": "erred", "v": "no_worker"}
    again = replayed(facts, play.state.policy)
    loaded = replayed([], play.state.policy, list(checkpoint.dump(again)))
    for state in (again, loaded):
        assert projection(state)["tasks"] == projection(play.state)["tasks"]
        assert state.revoked_stamps.keys() == play.state.revoked_stamps.keys()


@pytest.mark.parametrize("inputs", [[], ["y"]])
def test_who_submits_a_task_again_gets_what_it_goes_on_with(inputs: list[str]) -> None:
    """A parent that is run again makes the calls that it made, and doesn't know that one was replaced since."""
    play, facts = recorded("w")
    play.ann(submit("z"), submit("x", "z", args=b"1", durable=True, keep=60.0), submit("y"))
    play.worker("w", finished("z", play.task("z").attempt))
    attempt = play.task("x").attempt
    play.worker("w", m.Continue("x", attempt, 1, 0.0, 1, b"2", inputs))
    once_more = submit("x", "z", args=b"1", durable=True, keep=60.0)
    other = submit("x", "z", args=b"3", durable=True, keep=60.0)
    assert play.bob(once_more) == []
    refused = play.bob(other)
    assert [one.message.kind for one in refused] == ["duplicate"]
    again = replayed(facts, play.state.policy)
    loaded = replayed([], play.state.policy, list(checkpoint.dump(again)))
    assert _first(again.tasks["x"]) == _first(loaded.tasks["x"]) == _first(play.task("x")) is not None


def _first(task: TaskRecord) -> bytes | None:
    return task.terms.first if task.terms is not None else None


def test_what_was_revoked_and_let_go_of_fails_when_it_is_needed_again() -> None:
    """A retry of what depends on it must not have it run after all."""
    play = Play("w")
    play.ann(submit("x"), submit("y", "x", workers=("v",)), m.Release(["x"]))
    play.ann(m.Ask(1, "revoke", [["y", "x"], False]))
    assert play.states() == {"x": "released", "y": "erred"}
    commands = play.ann(m.Retry(["y"]))
    assert runs(commands) == []
    assert play.states() == {"x": "erred", "y": "erred"}
    failed = play.task("y").failure
    assert failed is not None
    assert (failed.type, failed.key) == ("TaskRevokedError", "x")
