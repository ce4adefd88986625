"""Which worker gets a task, when, and how many: restrictions, resources, order, the window, following, explanations."""

from __future__ import annotations

import pytest

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import Send, WorkerBeat, WorkerJoined, WorkerLost, WorkerReturned, WorkerSuspected
from tests.unit.scheduler.play import BIG, LARGE, Play, finished, runs, submit


def warmed(play: Play, seconds: float) -> None:
    """Let a task of each kind end after ``seconds``, so that the mean duration is known."""
    play.ann(submit("warm"))
    worker = next(iter(play.state.workers))
    play.worker(worker, finished("warm", play.task("warm").attempt, b"1", seconds=seconds))
    play.ann(m.Release(["warm"]))


# -- who may -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v", "v-id", "far"])
def test_a_task_goes_to_the_worker_it_names(name: str) -> None:
    """By name, id or host."""
    play = Play("w")
    play.handle(joined("v-id", name="v", host="far"))
    assert runs(play.ann(submit("x", workers=(name,)))) == [("v-id", "x")]


def joined(worker_id: str, **info: object) -> WorkerJoined:
    """A worker with an id that is not its name."""
    return WorkerJoined(worker_id, info)


def test_a_task_for_an_unknown_worker_waits_and_says_why() -> None:
    """A misspelt name must not look like a busy cluster."""
    play = Play("w")
    assert play.ann(submit("x", workers=("typo",))) == []
    assert play.states() == {"x": "no_worker"}
    assert play.why("x") == "no connected worker is named by workers=['typo']; connected are: w on h"
    assert runs(play.join("typo")) == [("typo", "x")]


def test_other_workers_are_allowed_only_while_no_named_one_is_there() -> None:
    """`allow_other_workers` makes the restriction soft."""
    play = Play("w")
    assert runs(play.ann(submit("x", workers=("v",), allow_other_workers=True))) == [("w", "x")]
    play.join("v")
    assert runs(play.ann(submit("y", workers=("v",), allow_other_workers=True))) == [("v", "y")]


def test_ready_tasks_are_stranded_when_their_last_worker_goes() -> None:
    """And they say so, instead of standing in a queue nobody serves."""
    play = Play("w", slots=1)
    play.join("v", slots=1)
    play.ann(*(submit(f"x{number}", workers=("v",)) for number in range(3)))
    assert play.states()["x2"] == "queued"
    play.handle(WorkerLost("v", expected=True))
    assert set(play.states().values()) == {"no_worker"}


def test_resources_bound_what_runs_at_a_time() -> None:
    """Two tasks that need the only GPU run one after the other."""
    play = Play()
    play.join("w", gpu=1)
    assert runs(play.ann(submit("x", resources={"gpu": 1}), submit("y", resources={"gpu": 1}))) == [("w", "x")]
    assert runs(play.worker("w", finished("x", 1))) == [("w", "y")]


def test_fractions_of_a_resource_add_up() -> None:
    """Three tenths are more than 0.3 in floats, and fit all the same."""
    play = Play()
    play.join("w", gpu=0.3)
    assert len(runs(play.ann(*(submit(f"x{number}", resources={"gpu": 0.1}) for number in range(3))))) == 3


def test_more_resources_than_any_worker_has_are_explained() -> None:
    """The future waits, and says for what."""
    play = Play()
    play.join("w", gpu=1)
    play.ann(submit("x", resources={"gpu": 2}))
    assert "offering resources={'gpu': 2}" in play.why("x")


def test_no_worker_at_all_is_explained_with_the_command_that_starts_one() -> None:
    """The first thing a new user meets."""
    play = Play()
    play.ann(submit("x"))
    assert play.why("x") == "no worker is connected; start one with: futurebroker worker <address>"


# -- where ---------------------------------------------------------------------------------------------------------


def test_tasks_go_round_equal_workers() -> None:
    """Nobody gets everything because it joined first."""
    play = Play("w", "v", "u", slots=1)
    assert sorted(runs(play.ann(submit("x"), submit("y"), submit("z")))) != [("w", "x"), ("w", "y"), ("w", "z")]
    assert {len(worker.processing) for worker in play.state.workers.values()} == {1}


def test_a_task_goes_where_its_input_lies() -> None:
    """Moving a large input costs more than a short wait."""
    play = Play()
    play.join("w", host="one")
    play.join("v", host="two")
    play.ann(submit("a", workers=("v",)))
    play.worker("v", finished("a", 1, None))
    assert runs(play.ann(submit("x", "a"), submit("y", "a"), submit("z", "a"))) == [("v", "x"), ("v", "y"), ("v", "z")]


def test_an_input_on_another_worker_is_named_with_its_place() -> None:
    """The worker maps the file or fetches it; an input it holds itself in memory needs no place."""
    play = Play("w", "v")
    play.ann(submit("a", workers=("w",)))
    play.worker("w", finished("a", 1, None))
    commands = play.ann(submit("x", "a", workers=("v",)))
    assert commands == [play.run("v", "x", 2, m.Held("a", LARGE, [("w", "/a")]))]


def test_suspected_and_paused_workers_get_nothing_new() -> None:
    """What they have stays their own."""
    play = Play("w")
    play.ann(submit("x"))
    play.handle(WorkerSuspected("w"))
    assert play.ann(submit("y")) == []
    assert play.states() == {"x": "processing", "y": "queued"}
    assert runs(play.handle(WorkerReturned("w"))) == [("w", "y")]
    play.handle(WorkerBeat("w", "paused", {}))
    assert play.ann(submit("z")) == []
    assert runs(play.handle(WorkerBeat("w", "running", {}))) == [("w", "z")]


# -- in what order -------------------------------------------------------------------------------------------------


def test_higher_priority_runs_earlier() -> None:
    """And equal ones in the order they came."""
    play = Play()
    play.ann(submit("low", priority=-1), submit("a"), submit("b"), submit("high", priority=1))
    assert [key for _, key in runs(play.join("w"))] == ["high", "a", "b", "low"]


def test_any_priority_travels() -> None:
    """An order must fit into a message whatever the user wrote."""
    play = Play("w")
    for number, priority in enumerate((-(10**12), 10**12)):
        (command,) = play.ann(submit(f"x{number}", priority=priority))
        assert m.decode("to_worker", m.encode([command.message])) == [command.message]


def test_what_was_begun_is_finished_before_more_is_begun() -> None:
    """A dependent takes its place in the order from its input, so intermediate results don't pile up."""
    play = Play("w", slots=1)
    warmed(play, 1.0)
    play.ann(submit("a1"), submit("a2"), submit("a3"), submit("a4"), submit("b1", "a1"), submit("b2", "a2"))
    order = []
    while play.state.workers["w"].processing:
        task = next(iter(play.state.workers["w"].processing.values()))
        order.append(task.key)
        play.worker("w", finished(task.key, task.attempt, b"1", seconds=1.0))
    assert order.index("b1") < order.index("a3")
    assert order.index("b2") < order.index("a4")


# -- how many ------------------------------------------------------------------------------------------------------


def test_long_tasks_stay_on_the_scheduler() -> None:
    """A worker hoards nothing: one task a slot and one to go on with."""
    play = Play("w", slots=2)
    warmed(play, 1.0)
    assert len(runs(play.ann(*(submit(f"x{number}") for number in range(200))))) == 3


def test_tasks_of_unknown_duration_are_taken_to_be_long() -> None:
    """Until the first has ended."""
    play = Play("w", slots=2)
    assert len(runs(play.ann(*(submit(f"x{number}") for number in range(200))))) == 3


def test_short_tasks_go_out_in_batches() -> None:
    """A round trip costs more than they do."""
    play = Play("w", slots=2)
    warmed(play, 0.00001)
    assert len(runs(play.ann(*(submit(f"x{number}") for number in range(2000))))) > 300


def test_the_window_grows_with_the_round_trip() -> None:
    """A worker far away needs more to stay busy."""
    play = Play("w", slots=1)
    warmed(play, 0.01)
    near = len(runs(play.ann(*(submit(f"x{number}") for number in range(500)))))
    far = sum(len(runs(play.handle(WorkerBeat("w", "running", {}, 0.25)))) for _ in range(20))
    assert near <= 3
    assert far > 20


# -- ahead of inputs -----------------------------------------------------------------------------------------------


def test_a_chain_is_sent_ahead_to_one_worker() -> None:
    """It runs at the worker's speed, without a round trip a link."""
    play = Play("w", "v", slots=4)
    commands = play.ann(submit("a"), submit("b", "a"), submit("c", "b"))
    (worker, *rest) = [peer for peer, _ in runs(commands)]
    assert rest == [worker, worker]
    assert commands[1] == play.run(worker, "b", 2, m.Held("a"))


def test_a_task_with_inputs_made_on_two_workers_waits() -> None:
    """Neither would ever have both."""
    play = Play("w", "v")
    play.ann(submit("a", workers=("w",)), submit("b", workers=("v",)))
    assert play.ann(submit("c", "a", "b")) == []
    assert play.why("c") == "waits for 2 of its 2 dependencies: a, b"


def test_a_task_that_may_not_run_there_does_not_follow() -> None:
    """Restrictions and resources come before speed."""
    play = Play("w", "v")
    play.ann(submit("a", workers=("w",)))
    assert play.ann(submit("b", "a", workers=("v",)), submit("c", "a", resources={"gpu": 1})) == []


def test_following_ends_where_the_window_does() -> None:
    """A long chain of long tasks is no reason to hoard."""
    play = Play("w", slots=1)
    commands = play.ann(submit("t0"), *(submit(f"t{number}", f"t{number - 1}") for number in range(1, 50)))
    assert len(runs(commands)) == 2


def test_a_follower_goes_on_when_its_input_is_kept_elsewhere() -> None:
    """The scheduler takes the small result, and the worker has what it needs already."""
    play = Play("w")
    play.ann(submit("a"), submit("b", "a"))
    assert Send("w", m.Free(["a"])) in play.worker("w", finished("a", 1))
    assert play.task("b").waiting_on == 0
    assert play.states() == {"a": "memory", "b": "processing"}


# -- explanations --------------------------------------------------------------------------------------------------


def test_every_state_explains_itself() -> None:
    """`client.why` must answer whatever the reason is."""
    play = Play("w", slots=1)
    play.ann(submit("a"), submit("b"), submit("c"), submit("d", "c"))
    assert play.why("a") == "was sent to worker w, attempt 1"
    assert play.why("c") == "is ready and waits until one of 1 workers that may run it has room"
    play.worker("w", finished("a", 1, BIG))
    assert play.why("a") == "is finished; its result of 4,097 bytes is held by w"
    play.worker("w", m.Erred("b", 2, m.Failure("ValueError", "no", "", "b", "w")))
    assert play.why("b") == "failed with ValueError: no"
    play.ann(submit("e", "b"))
    assert play.why("e") == "failed in its dependency b with ValueError: no"
