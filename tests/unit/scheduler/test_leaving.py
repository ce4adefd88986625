"""A worker says that it is closing: it gets nothing more, others fetch what only it has, and then it may go."""

from __future__ import annotations

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import Send, WorkerBeat, WorkerLost
from tests.unit.scheduler.play import LARGE, Play, finished, runs, submit

MAY_GO = m.Leave("nothing that is needed is left there")


def closing(name: str) -> WorkerBeat:
    """The heartbeat of a worker that leaves."""
    return WorkerBeat(name, "closing", {}, 0.001)


def holding() -> Play:
    """Worker v holds the large result x, and w is there too."""
    play = Play("v", "w")
    play.ann(submit("x", workers=("v",)))
    play.worker("v", finished("x", 1, None))
    return play


def test_a_result_that_only_the_leaving_worker_has_is_fetched_by_another() -> None:
    """Or each deployment would cost the time to compute everything again."""
    play = holding()
    assert play.handle(closing("v")) == [Send("w", m.Replicate(m.Held("x", LARGE, [("v", "/x")])))]
    assert play.worker("w", m.Stored("x", LARGE, "/w-x")) == [Send("v", MAY_GO), Send("v", m.Free(["x"]))]
    play.handle(WorkerLost("v", True))
    assert play.states() == {"x": "memory"}


def test_what_another_worker_has_already_is_not_fetched() -> None:
    """The copy is as good."""
    play = holding()
    play.worker("w", m.Stored("x", LARGE, "/w-x"))
    assert play.handle(closing("v")) == [Send("v", MAY_GO), Send("v", m.Free(["x"]))]


def test_a_worker_that_runs_something_may_not_go_yet() -> None:
    """Its result will have to be fetched as well."""
    play = Play("v", "w")
    play.ann(submit("x", workers=("v",)))
    assert play.handle(closing("v")) == []
    play.worker("v", finished("x", 1, None))
    assert play.handle(closing("v")) == [Send("w", m.Replicate(m.Held("x", LARGE, [("v", "/x")])))]


def test_the_last_worker_may_go_with_all_it_has() -> None:
    """Nobody can take it, and waiting would not change that."""
    play = holding()
    play.handle(WorkerLost("w", True))
    assert play.handle(closing("v")) == [Send("v", MAY_GO)]


def test_a_leaving_worker_goes_when_the_one_that_was_to_take_over_is_gone() -> None:
    """Whole clusters end at once, and nobody should wait for a copy that can't be made."""
    play = holding()
    play.handle(closing("v"))
    assert Send("v", MAY_GO) in play.handle(WorkerLost("w", True))


def test_what_a_leaving_worker_hands_back_goes_to_another() -> None:
    """With soft restrictions too: the worker they name is as good as gone."""
    play = Play("v", "w", slots=1)
    play.ann(submit("a", workers=("v",), allow_other_workers=True))
    play.ann(submit("b", workers=("v",), allow_other_workers=True))
    play.handle(closing("v"))
    assert runs(play.worker("v", m.GaveBack("b", 2))) == [("w", "b")]


def test_what_only_the_leaving_worker_may_run_waits_for_another_like_it() -> None:
    """It is not sent there to be handed back, over and over."""
    play = Play("v", "w", slots=1)
    play.ann(submit("a", workers=("v",)), submit("b", workers=("v",)))
    play.handle(closing("v"))
    assert play.worker("v", m.GaveBack("b", 2)) == []
    assert play.states() == {"a": "processing", "b": "no_worker"}
