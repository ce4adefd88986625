"""What a worker has of a former scheduler: it tells the new one, which may go on with it."""

from __future__ import annotations

import pytest

from futurebroker.protocol.messages import Adopt, Drop, ExecutorDied, Finished, Free, GaveBack, Held, Inventory
from futurebroker.worker import commands
from tests.unit.worker.world import INC, SLEEP, World, run


@pytest.fixture
def world() -> World:
    """A worker with one executor."""
    return World()


def test_what_runs_goes_on_and_is_offered_when_it_is_done(world: World) -> None:
    """The new scheduler may not have heard of it yet; under its old attempt it would mean something else."""
    world.deliver(run("a"))
    world.step(1)
    world.deliver(run("b"), run("c", Held("b")), run("d"))
    world.begin(1)
    world.do(commands.Fresh())
    kept = world.machine.store["a"].data
    assert kept is not None
    told = [message for message in world.mail if isinstance(message, Inventory)]
    running = [key for message in told for key, _ in message.running]
    assert "b" in running
    assert told[-1] == Inventory([], [("a", kept)], last=True)
    assert world.machine.tasks == {}
    while world.executors[1].running is not None:
        world.end(1)
        world.begin(1)
    later = [message for message in world.mail if isinstance(message, Inventory)][len(told) :]
    assert {key for message in later for key, _ in message.values} == set(running)
    assert not world.machine.dispatcher.sent
    assert len(world.machine.orphans) == 0
    assert not any(isinstance(message, Finished) for message in world.mail[len(world.mail) - len(later) :])


def test_an_adopted_task_answers_for_its_new_attempt(world: World) -> None:
    """It isn't run again, however long it has run already."""
    world.deliver(run("a", attempt=9))
    world.begin(1)
    world.do(commands.Fresh())
    assert world.mail[-2:] == [Inventory([], [], [("a", INC)]), Inventory([], last=True)]
    assert world.deliver(Adopt("a", 1)) == []
    (report,) = world.end(1)
    assert isinstance(report, Finished)
    assert (report.key, report.attempt) == ("a", 1)


def test_a_task_that_was_sent_again_is_taken_up_where_it_runs(world: World) -> None:
    """The new scheduler may send it before it hears that it runs."""
    world.deliver(run("a", attempt=9))
    world.begin(1)
    world.do(commands.Fresh())
    assert world.deliver(run("a", attempt=1)) == []
    assert world.executors[1].running is not None
    (report,) = world.end(1)
    assert isinstance(report, Finished)
    assert report.attempt == 1
    assert world.begin(1) is None


def test_another_function_under_the_same_key_is_run(world: World) -> None:
    """The key of a program that is gone may mean something else in the next."""
    world.deliver(run("a", attempt=9))
    world.begin(1)
    world.do(commands.Fresh())
    world.deliver(run("a", attempt=1, function=SLEEP))
    world.end(1)
    world.begin(1)
    (report,) = world.end(1)
    assert isinstance(report, Finished)
    assert report.attempt == 1
    assert [message for message in world.mail if isinstance(message, Finished)] == [report]


def test_what_was_done_before_it_was_adopted_is_answered_from_stock(world: World) -> None:
    """The two cross on the way."""
    world.deliver(run("a", attempt=9))
    world.begin(1)
    world.do(commands.Fresh())
    world.end(1)
    value = world.machine.store["a"]
    assert world.deliver(Adopt("a", 3)) == [Finished("a", 3, value.nbytes, 0, value.data)]


def test_what_failed_or_never_ran_is_given_back(world: World) -> None:
    """Then it is a task like any other."""
    world.deliver(run("a", attempt=9))
    world.begin(1)
    world.do(commands.Fresh())
    world.end(1, fails=True)
    assert world.deliver(Adopt("a", 1), Adopt("unknown", 2)) == [GaveBack("a", 1), GaveBack("unknown", 2)]


def test_an_adopted_task_whose_executor_dies_is_answered_for(world: World) -> None:
    """As any other that ends its executor."""
    world.deliver(run("a", attempt=9))
    world.begin(1)
    world.do(commands.Fresh())
    world.deliver(Adopt("a", 1))
    assert world.die(1, "SIGKILL") == [ExecutorDied("a", 1, "SIGKILL")]


def test_an_orphan_whose_executor_dies_is_forgotten(world: World) -> None:
    """Nobody has asked for it."""
    world.deliver(run("a", attempt=9))
    world.begin(1)
    world.do(commands.Fresh())
    assert world.die(1, "SIGKILL") == []
    assert len(world.machine.orphans) == 0


def test_what_was_dropped_before_is_no_orphan(world: World) -> None:
    """The former scheduler did not want it either."""
    world.deliver(run("a", attempt=9))
    world.begin(1)
    world.deliver(Drop("a", 9))
    before = len(world.mail)
    world.do(commands.Fresh())
    world.end(1)
    assert world.mail[before:] == [Inventory([], last=True)]
    assert len(world.machine.store) == 0


def test_a_kept_result_answers_a_task_that_was_sent_before_it_was_told_of(world: World) -> None:
    """The new scheduler counts attempts from the start, and the old number must not keep this one from an answer."""
    world.deliver(run("a", attempt=9))
    world.step(1)
    value = world.machine.store["a"]
    world.do(commands.Fresh())
    world.deliver(run("a", attempt=1))
    assert world.mail[-1] == Finished("a", 1, value.nbytes, 0, value.data)
    world.deliver(Free(["a"]))
    assert len(world.machine.store) == 0


def test_what_is_to_be_run_anew_is_run_though_the_same_was_done_or_runs_here(world: World) -> None:
    """Its key is a user's choice, and the scheduler before this may have meant another call by it."""
    world.deliver(run("a", attempt=9), run("b", attempt=10))
    world.step(1)
    world.begin(1)
    world.do(commands.Fresh())
    told = len(world.mail)
    for key in ("a", "b"):
        message = run(key, attempt=1)
        message.anew = True
        assert world.deliver(message) == []
    while world.begin(1) is not None or world.executors[1].running is not None:
        world.end(1)
    answers = [message for message in world.mail[told:] if isinstance(message, Finished)]
    assert sorted((one.key, one.attempt) for one in answers) == [("a", 1), ("b", 1)]
