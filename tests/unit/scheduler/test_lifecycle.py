"""From submitting to forgetting: how tasks become ready, run, are kept and go."""

from __future__ import annotations

import inspect

import pytest

from futurebroker.exceptions import InvalidTransition
from futurebroker.protocol import messages as m
from futurebroker.scheduler import transitions
from futurebroker.scheduler.commands import ClientGone, ClientSaid, Forget, Send, WorkerSaid
from futurebroker.scheduler.state import LEGAL, MEMORY
from futurebroker.states import TaskState
from tests.unit.scheduler.play import BIG, CODE, FUNCTION, LARGE, Play, finished, runs, submit, tell


def said(message: m.Message) -> ClientSaid:
    """One message of ann, for the bare machine."""
    return ClientSaid("ann", [message])


def test_the_table_of_transitions_and_the_legal_moves_agree() -> None:
    """A move that is legal and has no function, or the other way round, is a hole in the machine."""
    assert {(start, end) for start, ends in LEGAL.items() for end in ends} == set(transitions.TRANSITIONS)
    assert LEGAL.keys() == set(TaskState)


def test_a_transition_is_named_after_its_move_or_what_it_does() -> None:
    """The table is where a reader looks; each of its functions explains itself."""
    for function in transitions.TRANSITIONS.values():
        assert inspect.getdoc(function)


def test_an_illegal_move_tells_the_story_of_the_task() -> None:
    """It is a bug, and the story is what there is to find it with."""
    play = Play("w")
    play.ann(submit("x"))
    with pytest.raises(InvalidTransition, match="x cannot go from processing to queued; story: attempt 1"):
        play.state.move(play.task("x"), TaskState.QUEUED)


def test_a_submitted_task_is_sent_at_once() -> None:
    """With room on a worker nothing waits on the scheduler."""
    play = Play("w")
    assert play.ann(submit("x", args=b"a")) == [play.run("w", "x", 1)]


def test_a_worker_gets_a_function_once_before_its_first_task() -> None:
    """Functions may be large; tasks name them by digest."""
    play = Play("w")
    first = play.machine.handle(said(submit("x")), 0.0)
    second = play.machine.handle(said(submit("y")), 0.0)
    assert next(one.message for one in first if isinstance(one, Send)) == CODE
    assert runs(second) == [("w", "y")]
    assert len(second) == 1


def test_a_small_result_is_kept_by_the_scheduler_and_freed_on_the_worker() -> None:
    """It can't be lost with the worker any more."""
    play = Play("w")
    play.ann(submit("x"))
    assert play.worker("w", finished("x", 1, b"1")) == [
        tell("ann", m.KeyFinished("x", b"1")),
        Send("w", m.Free(["x"])),
    ]
    assert play.task("x").value == b"1"


def test_a_result_too_large_to_keep_still_travels_to_the_client() -> None:
    """Up to the inline limit a client needs no second round trip."""
    play = Play("w")
    play.ann(submit("x"))
    assert play.worker("w", finished("x", 1, BIG)) == [tell("ann", m.KeyFinished("x", BIG))]
    assert play.task("x").holder_paths() == {play.state.workers["w"]: ""}


def test_a_stored_result_is_told_with_its_place() -> None:
    """The client maps the file, or fetches it from the worker."""
    play = Play("w")
    play.ann(submit("x"))
    held = m.Held("x", LARGE, [("w", "/x")])
    assert play.worker("w", finished("x", 1, None)) == [tell("ann", m.KeyFinished("x", None, held))]


def test_a_task_is_released_and_forgotten_with_its_last_future() -> None:
    """Nothing of it stays, on the scheduler or on the worker."""
    play = Play("w")
    play.ann(submit("x"))
    play.worker("w", finished("x", 1, BIG))
    assert play.ann(m.Release(["x"])) == [Send("w", m.Free(["x"]))]
    assert play.states() == {}


def test_a_task_two_clients_want_stays_until_both_let_go() -> None:
    """The same key is the same work."""
    play = Play("w")
    play.ann(submit("x"))
    assert play.bob(submit("x")) == []
    play.ann(m.Release(["x"]))
    assert play.states() == {"x": "processing"}
    assert play.bob(m.Release(["x"])) == [Send("w", m.Drop("x", 1))]


def test_a_dependent_waits_for_its_inputs_and_gets_their_values() -> None:
    """Inputs come in the order in which the call names them."""
    play = Play("w", "v", slots=1)
    play.ann(submit("a"), submit("b"), submit("c", "b", "a", resources=None))
    assert play.states()["c"] == "waiting"
    play.worker("w", finished("a", 1, b"A"))
    commands = play.worker("v", finished("b", 2, b"B"))
    assert [one.message.inputs for one in commands if isinstance(one.message, m.Run)] == [(b"B", b"A")]


def test_an_input_stays_while_an_unfinished_dependent_needs_it() -> None:
    """Even when the client has let go of it."""
    play = Play("w")
    play.ann(submit("a"))
    play.worker("w", finished("a", 1, BIG))
    play.ann(submit("b", "a"), m.Release(["a"]))
    assert play.states() == {"a": "memory", "b": "processing"}
    assert Send("w", m.Free(["a"])) in play.worker("w", finished("b", 2, BIG))
    assert play.states() == {"a": "released", "b": "memory"}


def test_what_may_have_to_be_computed_again_stays_known() -> None:
    """Released is not forgotten: a lost result is made again from its lineage."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"), m.Release(["a"]))
    play.worker("w", finished("a", 1, BIG), finished("b", 2, BIG))
    assert play.states() == {"a": "released", "b": "memory"}
    play.ann(m.Release(["b"]))
    assert play.states() == {}


def test_lineage_is_cut_when_the_scheduler_keeps_the_result() -> None:
    """A long loop of small results does not grow a history."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"), m.Release(["a"]))
    play.worker("w", finished("a", 1), finished("b", 2))
    assert play.states() == {"b": "memory"}


def test_a_kept_value_stays_while_what_it_made_may_have_to_be_made_again() -> None:
    """Its own lineage is cut, so released it could only be computed from nothing."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"), submit("c", "b"))
    play.worker("w", finished("a", 1), finished("b", 2), finished("c", 3, BIG))
    play.ann(m.Release(["a", "b"]))
    assert play.states() == {"b": "memory", "c": "memory"}
    assert play.bob(m.Want(["b"])) == [tell("bob", m.KeyFinished("b", b"1"))]


def test_a_forgotten_key_that_comes_again_gets_a_new_attempt_number() -> None:
    """A completion of the work before, still on its way, must not count for the new."""
    play = Play("w")
    play.ann(submit("x"), m.Release(["x"]))
    play.ann(submit("x", args=b"other"))
    attempt = play.task("x").attempt
    assert attempt > 0
    play.ann(m.Release(["x"]))
    play.ann(submit("x", args=b"third"))
    assert play.task("x").attempt > attempt
    assert play.worker("w", finished("x", attempt, b"old")) == []
    assert play.states() == {"x": "processing"}


def test_a_known_key_with_other_work_is_refused() -> None:
    """Two results under one key would be one wrong result."""
    play = Play("w")
    play.ann(submit("x", args=b"a"))
    (command,) = play.bob(submit("x", args=b"b"))
    assert command.message.kind == "duplicate"
    assert play.states() == {"x": "processing"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (submit("x", "missing"), "its dependency missing was cancelled, lost or never known"),
        (submit("x", "known", "known"), "it names a dependency twice"),
        (m.Submit(b"g" * 16, ["x"], [b""]), "its function was never sent"),
        (m.Submit(FUNCTION, ["x"], []), "its message has more keys than calls, or fewer"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_whole(message: m.Submit, reason: str) -> None:
    """Each call is taken or refused; the others of the message don't suffer, nor does the scheduler."""
    play = Play("w")
    play.ann(submit("known"))
    assert play.ann(message) == [tell("ann", m.KeyCancelled("x", reason, "rejected"))]
    assert play.states() == {"known": "processing"}


def test_a_client_may_hold_only_so_many_futures() -> None:
    """Memory of the scheduler is everybody's."""
    play = Play("w", client_keys=1)
    play.ann(submit("x"))
    (command,) = play.ann(submit("y"))
    assert command.message.kind == "rejected"
    assert "already holds 1 futures" in command.message.reason


def test_a_client_that_goes_releases_what_only_it_wanted() -> None:
    """Programs end without saying so; their work must not run for nobody."""
    play = Play("w")
    play.ann(submit("x"), submit("y"))
    play.bob(m.Want(["y"]))
    assert play.handle(ClientGone("ann")) == [Forget("ann"), Send("w", m.Drop("x", 1))]
    assert play.states() == {"y": "processing"}


def test_functions_go_with_their_last_task_and_client() -> None:
    """A service that lives for months sees many functions."""
    play = Play("w")
    play.ann(submit("x"))
    play.handle(ClientGone("bob"), ClientGone("ann"))
    assert (play.state.functions, play.state.pools, play.states()) == ({}, {}, {})


def test_a_stale_completion_is_counted_and_freed() -> None:
    """A zombie's result counts for nothing, and must not fill its memory."""
    play = Play("w", "v")
    play.ann(submit("x"))
    assert play.worker("v", finished("x", 1, None)) == [Send("v", m.Free(["x"]))]
    assert play.state.counters["stale"] == 1
    assert play.states() == {"x": "processing"}


def test_a_stale_completion_frees_nothing_under_a_newer_attempt() -> None:
    """The Free would come after the new result and take that one."""
    play = Play("w")
    play.ann(submit("x"))
    play.ann(m.Release(["x"]))
    play.ann(submit("x"))
    assert play.worker("w", finished("x", 1, None)) == []


def test_reports_of_a_stranger_change_counters_only() -> None:
    """A worker that was given up is nobody until it says hello again."""
    play = Play("w")
    play.ann(submit("x"))
    assert play.handle(WorkerSaid("ghost", [finished("x", 1)])) == []
    assert play.state.counters["stranger"] == 1


def test_messages_nobody_should_send_are_counted() -> None:
    """A confused peer can't stop the scheduler."""
    play = Play("w")
    assert play.ann(m.Free(["x"])) == []
    assert play.worker("w", m.Submit(FUNCTION, ["x"], [b""])) == []
    assert play.state.counters["unexpected"] == 2


def test_a_long_chain_needs_no_stack() -> None:
    """Errors, releases and computations travel in loops."""
    play = Play()
    play.machine.handle(said(submit("t0")), 0.0)
    for number in range(1, 3000):
        play.machine.handle(said(submit(f"t{number}", f"t{number - 1}")), 0.0)
    play.machine.handle(ClientGone("ann"), 0.0)
    assert play.states() == {}


def test_counts_of_states_are_kept_by_name() -> None:
    """The dashboard reads them; nobody counts a million records."""
    play = Play("w")
    play.ann(submit("a"), submit("b"))
    play.worker("w", finished("a", 1))
    counts = play.state.kinds["f"].counts
    assert (counts[MEMORY], counts[TaskState.PROCESSING]) == (1, 1)
