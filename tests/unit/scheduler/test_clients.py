"""What clients ask beside submitting: cancel, want, detach, scatter, fetch, questions, calls on workers."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import ClientGone, ClientSaid, Send, WorkerLost
from tests.unit.scheduler.play import BIG, LARGE, Play, failure, finished, runs, submit, tell

# -- cancelling ----------------------------------------------------------------------------------------------------


def test_cancelling_takes_the_task_and_what_depends_on_it() -> None:
    """A graph whose root is cancelled can't be finished."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"))
    reason = "cancelled by client ann"
    commands = play.ann(m.Cancel(["a"]))
    assert commands == [
        tell("ann", m.KeyCancelled("a", reason)),
        tell("ann", m.KeyCancelled("b", reason)),
        Send("w", m.Drop("b", 2)),
        Send("w", m.Drop("a", 1)),
    ]
    assert play.states() == {}


def test_one_client_does_not_cancel_for_another() -> None:
    """Bob's future of the same key, and of what depends on it, goes on."""
    play = Play("w")
    play.ann(submit("a"))
    play.bob(submit("b", "a"))
    assert play.ann(m.Cancel(["a"])) == [tell("ann", m.KeyCancelled("a", "cancelled by client ann"))]
    assert play.states() == {"a": "processing", "b": "processing"}


def test_force_cancels_for_everybody() -> None:
    """And tells each who did it."""
    play = Play("w")
    play.ann(submit("a"))
    play.bob(submit("b", "a"))
    commands = play.ann(m.Cancel(["a"], force=True, reason="stop"))
    assert commands[:2] == [tell("ann", m.KeyCancelled("a", "stop")), tell("bob", m.KeyCancelled("b", "stop"))]
    assert play.states() == {}


def test_a_late_result_of_a_cancelled_task_is_freed() -> None:
    """It ran to its end before the worker heard."""
    play = Play("w")
    play.ann(submit("x"))
    play.ann(m.Cancel(["x"]))
    assert play.worker("w", finished("x", 1, None)) == [Send("w", m.Free(["x"]))]


def test_cancelling_what_is_not_known_is_no_error() -> None:
    """It may just have been released."""
    assert Play("w").ann(m.Cancel(["x"])) == []


# -- wanting, detaching --------------------------------------------------------------------------------------------


def test_who_wants_a_finished_task_is_told_at_once() -> None:
    """A future may reach a client through another task's result."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", finished("x", 1))
    assert play.bob(m.Want(["x"])) == [tell("bob", m.KeyFinished("x", b"1"))]


def test_who_wants_a_failed_task_is_told_why() -> None:
    """At once as well."""
    play = Play("w")
    play.ann(submit("x"))
    cause = failure("x")
    play.worker("w", m.Erred("x", 1, cause))
    assert play.bob(m.Want(["x"])) == [tell("bob", m.KeyErred("x", cause))]


def test_who_wants_a_released_task_has_it_computed_again() -> None:
    """Its lineage is still known."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"), m.Release(["a"]))
    play.worker("w", finished("a", 1, BIG), finished("b", 2, BIG))
    assert play.bob(m.Want(["a"])) == [play.run("w", "a", 3)]


def test_who_wants_an_unknown_task_is_told_that_it_is_gone() -> None:
    """The future must not wait for ever."""
    (command,) = Play("w").bob(m.Want(["x"]))
    assert (command.message.key, command.message.kind) == ("x", "lost")


def test_a_detached_task_runs_to_its_end_for_nobody() -> None:
    """`fire_and_forget` outlives its client, and its result is dropped when it comes."""
    play = Play("w")
    play.ann(submit("x"), m.Detach(["x"]))
    play.handle(ClientGone("ann"))
    assert play.states() == {"x": "processing"}
    play.worker("w", finished("x", 1))
    assert play.states() == {}


def test_who_detached_a_task_hears_only_that_it_has_ended() -> None:
    """Its client would submit it again after a restart, and need not any more."""
    play = Play("w")
    play.ann(submit("x"), m.Detach(["x"]), m.Release(["x"]))
    assert play.worker("w", m.Erred("x", 1, failure("x"))) == [tell("ann", m.DetachedEnded(["x"]))]
    assert play.states() == {}
    play.ann(submit("y"), m.Detach(["y"]))
    assert play.bob(m.Cancel(["y"], force=True)) == [
        tell("ann", m.KeyCancelled("y", "cancelled by client bob")),
        tell("ann", m.DetachedEnded(["y"])),
        Send("w", m.Drop("y", 2)),
    ]


def test_detaching_a_finished_task_keeps_nothing() -> None:
    """There is nothing left to wait for."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", finished("x", 1))
    assert play.ann(m.Detach(["x"]), m.Release(["x"])) == [tell("ann", m.DetachedEnded(["x"]))]
    assert play.states() == {}


# -- scattering ----------------------------------------------------------------------------------------------------


def test_tiny_data_is_kept_by_the_scheduler() -> None:
    """It travels inside the tasks that need it."""
    play = Play("w")
    assert play.ann(m.PutValue("d", b"1")) == [tell("ann", m.KeyFinished("d", b"1"))]
    assert play.ann(submit("x", "d")) == [play.run("w", "x", 1, b"1")]


def test_larger_data_goes_to_a_worker_and_tasks_follow_it() -> None:
    """Nobody waits for the data to arrive before submitting."""
    play = Play("w")
    assert play.ann(m.PutValue("d", BIG)) == [Send("w", m.Store("d", BIG))]
    assert play.ann(submit("x", "d")) == [play.run("w", "x", 2, m.Held("d"))]
    held = m.Held("d", len(BIG), [("w", "/d")])
    assert play.worker("w", m.Stored("d", len(BIG), "/d")) == [tell("ann", m.KeyFinished("d", None, held))]


def test_a_file_is_taken_over_or_refused() -> None:
    """A client whose file no worker can open sends it in parts."""
    play = Play("w")
    assert play.ann(m.PutFile("d", "/file", LARGE)) == [Send("w", m.AdoptFile("d", "/file", LARGE))]
    assert play.worker("w", m.NotStored("d", "no")) == [tell("ann", m.KeyCancelled("d", "no", "rejected"))]
    assert play.states() == {}


def test_all_parts_go_to_the_worker_that_got_the_first() -> None:
    """One worker puts them together."""
    play = Play("w")
    assert play.ann(m.PutPart("d", 0, 4, b"ab")) == [Send("w", m.StorePart("d", 0, 4, b"ab"))]
    play.join("v")
    assert play.ann(m.PutPart("d", 2, 4, b"cd")) == [Send("w", m.StorePart("d", 2, 4, b"cd"))]


def test_a_client_is_asked_for_what_it_announces() -> None:
    """As a worker that holds a result: in parts, as many as may be on their way, and past the scheduler."""
    play = Play("w")
    source = m.Held("d", LARGE, [("ann", "")])
    assert play.ann(m.PutPart("d", 0, LARGE, b"")) == [Send("w", m.Replicate(source))]
    wanted = m.DataWanted(1, "d", 0, 100, "ann", "", "q")
    assert play.worker("w", wanted) == [Send("ann", m.DataWanted(1, "d", 0, 100, "ann", "w", "q"))]
    part = m.DataPart(1, "d", 0, LARGE, b"part", "w")
    assert play.ann(part) == [Send("w", part)]
    assert play.worker("w", m.DataEnough(1)) == []
    held = m.Held("d", LARGE, [("w", "/d")])
    assert play.worker("w", m.Stored("d", LARGE, "/d")) == [tell("ann", m.KeyFinished("d", None, held))]


def test_a_worker_waits_for_no_part_of_a_client_that_is_gone() -> None:
    """Nor is anything counted as on its way."""
    play = Play("w")
    play.ann(m.PutPart("d", 0, LARGE, b""))
    play.worker("w", m.DataWanted(1, "d", 0, 100, "ann", "", "q"))
    assert Send("w", m.DataPart(1, "d", 0, -1, b"", "w")) in play.handle(ClientGone("ann"))
    assert play.worker("w", m.NotStored("d", "no holder has it")) == []
    assert (play.states(), play.state.relayed, play.state.relayed_bytes) == ({}, {}, 0)


def test_data_nobody_can_hold_is_refused_before_calls_that_name_it() -> None:
    """They may follow in the same envelope, and must not wait for it."""
    play = Play()
    commands = play.ann(m.PutFile("d", "/file", LARGE), submit("x", "d"))
    assert [(one.message.key, one.message.kind) for one in commands] == [("d", "rejected"), ("x", "rejected")]
    assert play.states() == {}


def test_data_stays_while_something_made_from_it_is_known() -> None:
    """It can't be made again, and what was made from it may have to be."""
    play = Play("w")
    play.ann(m.PutValue("d", BIG), submit("x", "d"), m.Release(["d"]))
    play.worker("w", m.Stored("d", len(BIG), "/d"), finished("x", 2, BIG))
    assert play.states() == {"d": "memory", "x": "memory"}
    play.ann(m.Release(["x"]))
    assert play.states() == {}


def test_data_that_comes_late_for_nobody_is_freed() -> None:
    """The client let go of it on the way."""
    play = Play("w")
    play.ann(m.PutValue("d", BIG))
    play.ann(m.Release(["d"]))
    assert play.worker("w", m.Stored("d", len(BIG), "/d")) == [Send("w", m.Free(["d"]))]


# -- fetching ------------------------------------------------------------------------------------------------------


def test_requests_for_data_are_passed_to_a_holder_and_back() -> None:
    """The scheduler only passes them on; it says who asked."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", finished("x", 1, None))
    assert play.ann(m.DataWanted(3, "x", 0, 100)) == [Send("w", m.DataWanted(3, "x", 0, 100, "w", "ann"))]
    part = m.DataPart(3, "x", 0, LARGE, b"..", "ann")
    assert play.worker("w", part) == [tell("ann", part)]


def test_what_the_scheduler_keeps_it_hands_out_itself() -> None:
    """No worker has it."""
    play = Play()
    play.ann(m.PutValue("d", b"0123456789"))
    assert play.bob(m.DataWanted(3, "d", 2, 4)) == [tell("bob", m.DataPart(3, "d", 2, 10, b"2345"))]


def test_data_nobody_has_is_answered_with_its_absence() -> None:
    """Who asked tries the next way, or waits to be told where it is."""
    assert Play("w").ann(m.DataWanted(3, "x", 0, 4)) == [tell("ann", m.DataPart(3, "x", 0, -1, b""))]


# -- questions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "about", "answer"),
    [
        ("who_has", None, {"x": ["w"], "y": []}),
        ("who_has", ["x", "unknown"], {"x": ["w"]}),
        ("has_what", None, {"w": ["x"]}),
        ("nthreads", None, {"w": 8}),
        ("processing", ["w"], {"w": ["y"]}),
        ("nbytes", ["x"], {"x": LARGE}),
        ("why", "y", "y was sent to worker w, attempt 2"),
        ("why", "z", "z is not known: it was never submitted, or it was released or cancelled"),
    ],
)
def test_a_question_is_answered(topic: str, about: Any, answer: Any) -> None:
    """With what the scheduler knows now."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", finished("x", 1, None))
    play.ann(submit("y"))
    assert play.ann(m.Ask(5, topic, about)) == [tell("ann", m.Answer(5, answer))]


@pytest.mark.parametrize(("topic", "about"), [("nonsense", None), ("why", ["x"]), ("who_has", 7), ("has_what", 3)])
def test_a_question_that_makes_no_sense_is_answered_with_an_error(topic: str, about: Any) -> None:
    """A confused client can't stop the scheduler."""
    (command,) = Play("w").ann(m.Ask(5, topic, about))
    assert command.message.error


def test_waiting_for_workers_is_answered_when_there_are_enough() -> None:
    """And only once."""
    play = Play("w")
    assert play.ann(m.Ask(1, "wait_for_workers", 2)) == []
    assert play.bob(m.Ask(2, "wait_for_workers", 1)) == [tell("bob", m.Answer(2, 1))]
    assert play.join("v") == [tell("ann", m.Answer(1, 2))]
    assert play.join("u") == []


def test_scheduler_info_counts_everything() -> None:
    """Dashboards and programs read it."""
    play = Play("w")
    play.ann(submit("x"))
    (command,) = play.ann(m.Ask(1, "scheduler_info"))
    info = command.message.value
    assert info["tasks"]["processing"] == 1
    assert info["workers"]["w"]["processing"] == 1
    assert info["clients"] == 2


# -- calls on workers ----------------------------------------------------------------------------------------------


def test_a_call_on_workers_collects_what_each_returned() -> None:
    """Answered once, when the last has answered."""
    play = Play("w", "v")
    call = m.CallFunction(1, b"code", b"args")
    assert play.ann(m.RunOnWorkers(9, b"code", b"args")) == [Send("w", call), Send("v", call)]
    assert play.worker("w", m.FunctionCalled(1, b"1")) == []
    results: dict[str, Any] = {"w": (b"1", None), "v": (b"2", None)}
    assert play.worker("v", m.FunctionCalled(1, b"2")) == [tell("ann", m.RanOnWorkers(9, results))]


def test_a_call_names_the_workers_it_is_for() -> None:
    """By name, id or host; none of that name is an empty answer, not a wait."""
    play = Play("w", "v")
    assert play.ann(m.RunOnWorkers(9, b"", b"", ("v",))) == [Send("v", m.CallFunction(1, b"", b""))]
    assert play.ann(m.RunOnWorkers(10, b"", b"", ("typo",))) == [tell("ann", m.RanOnWorkers(10, {}))]


def test_a_worker_lost_during_a_call_answers_with_a_failure() -> None:
    """The others' answers are still worth something."""
    play = Play("w", "v")
    play.ann(m.RunOnWorkers(9, b"", b""))
    play.worker("w", m.FunctionCalled(1, b"1"))
    (told, _) = play.handle(WorkerLost("v"))
    assert told.message.results["w"] == (b"1", None)
    assert "lost before it answered" in told.message.results["v"][1].message


def test_an_answer_for_a_client_that_is_gone_is_dropped() -> None:
    """Nobody waits for it."""
    play = Play("w")
    play.ann(m.RunOnWorkers(9, b"", b""))
    play.handle(ClientGone("ann"))
    assert play.worker("w", m.FunctionCalled(1, b"1")) == []


def test_equal_events_give_equal_commands() -> None:
    """Only then can a run be repeated; no order of addresses in memory may show."""
    first, second = Play("w", "v", "u"), Play("w", "v", "u")
    for play in (first, second):
        play.ann(*(submit(f"a{number}") for number in range(30)))
    message = [submit(f"b{number}", f"a{number}", f"a{number + 1}") for number in range(29)]
    event = ClientSaid("ann", list(message))
    assert first.handle(event) == second.handle(event)
    done = [finished(task.key, task.attempt) for task in first.state.workers["w"].processing.values()]
    assert runs(first.worker("w", *done)) == runs(second.worker("w", *done))


def test_broadcast_data_is_copied_to_every_worker_once_the_first_has_it() -> None:
    """Who broadcasts wants no task to wait for a transfer; the copies are made among workers, not by the client."""
    play = Play("v", "w", "x")
    play.ann(m.PutFile("data", "/client/file", LARGE, (), True))
    first = play.task("data").worker
    assert first is not None
    commands = play.worker(first.worker_id, m.Stored("data", LARGE, "/store/file"))
    source = m.Held("data", LARGE, [(first.worker_id, "/store/file")])
    others = [name for name in ("v", "w", "x") if name != first.worker_id]
    assert [one for one in commands if isinstance(one.message, m.Replicate)] == [
        Send(name, m.Replicate(source)) for name in others
    ]
    for name in others:
        play.worker(name, m.Stored("data", LARGE, "/store/copy"))
    assert len(play.task("data").holder_paths()) == 3
