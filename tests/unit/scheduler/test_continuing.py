"""Tasks that ask to be run again in another way: queue, priority and limits of the runs that follow."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol import messages as m
from tests.unit.scheduler.play import Play, finished, runs, submit
from tests.unit.scheduler.projection import projection, replayed
from tests.unit.scheduler.test_promises import recorded


def ask_again(play: Play, key: str, worker: str = "w", args: bytes | None = None, **options: Any) -> list[Any]:
    """The task asks to be run again at once, with these options."""
    attempt = play.task(key).attempt
    return play.worker(worker, m.Continue(key, attempt, 1, 0.0, 1, args, [], None, options, b"request"))


@pytest.mark.parametrize("args", [None, b"2"])
def test_a_task_goes_on_in_another_queue(args: bytes | None) -> None:
    """What one machine can't do is asked of those that take from another queue."""
    play, facts = recorded("w", "v")
    play.state.workers["w"].queues = {"celery": None}
    play.state.workers["v"].queues = {"slow": None}
    play.ann(submit("x", args=b"1"))
    commands = ask_again(play, "x", args=args, queue="slow", priority=3, soft_time_limit=5.0)
    (run,) = [one for one in commands if isinstance(one.message, m.Run)]
    assert run.peer == "v"
    assert run.message.args == (args or b"1")
    assert (run.message.terms.soft, run.message.terms.request) == (5.0, b"request")
    options = play.task("x").pool.options
    assert (options.queue, options.priority) == ("slow", 3)
    assert projection(replayed(facts, play.state.policy))["tasks"] == projection(play.state)["tasks"]
    play.worker("v", finished("x", play.task("x").attempt))
    assert play.states() == {"x": "memory"}


def test_a_task_that_comes_back_with_more_weight_goes_first() -> None:
    """Priority orders what waits, also what has run before."""
    play = Play("w", slots=1, ahead=1)
    play.ann(*(submit(key) for key in "abcdef"))
    behind = [key for key in "abcdef" if play.task(key).state.value == "queued"]
    assert behind
    first = next(key for key in "abcdef" if play.task(key).worker is not None)
    ask_again(play, first, priority=9)
    assert play.task(first).order < min(play.task(key).order for key in behind)


def test_without_a_worker_for_it_the_task_waits_for_one() -> None:
    """It is not lost, and goes on when one comes."""
    play = Play("w")
    play.state.workers["w"].queues = {"celery": None}
    play.ann(submit("x"))
    assert runs(ask_again(play, "x", queue="slow")) == []
    assert play.states() == {"x": "no_worker"}


@pytest.mark.parametrize("options", [{"queue": 7}, {"priority": "high"}, {"time_limit": "x"}, {"keep": 9.0}])
def test_what_can_not_be_is_left_as_it_was(options: dict[str, Any]) -> None:
    """An executor runs code of others: it can't give a task promises, nor break the machine."""
    play = Play("w")
    play.ann(submit("x"))
    before = play.task("x").pool.options
    ask_again(play, "x", **options)
    assert play.task("x").pool.options == before
