"""A client has the whole cluster shut down: workers leave first, who asked is answered, and the process ends last."""

from __future__ import annotations

from futurebroker.protocol import messages as m
from futurebroker.scheduler import ending
from futurebroker.scheduler.commands import (
    ClientGone,
    ClientJoined,
    Noticed,
    PassOn,
    Send,
    Tick,
    WorkerBeat,
    WorkerLost,
)
from futurebroker.scheduler.ending import LEAVE_WITHIN, PART_WITHIN
from tests.unit.scheduler.play import Play, finished, runs, submit

ASK = m.Ask(7, "shutdown")
LEAVE = m.Leave("the cluster was shut down by ann", hurry=True)
BEGUN = PassOn("", Noticed("shutting_down", "ann"))
OVER = PassOn("", Noticed("shut_down", ""))


def test_workers_leave_then_who_asked_is_told_and_says_goodbye() -> None:
    """In this order, so that nobody is left behind who waits for an answer."""
    play = Play("v", "w")
    assert play.ann(ASK) == [Send("v", LEAVE), Send("w", LEAVE), BEGUN]
    assert Send("ann", m.Answer(7)) not in play.handle(WorkerLost("v", True))
    assert Send("ann", m.Answer(7)) in play.handle(WorkerLost("w", True))
    assert OVER in play.handle(ClientGone("ann"))


def test_without_workers_the_answer_comes_at_once() -> None:
    """There is nobody to wait for."""
    play = Play()
    assert play.ann(ASK) == [BEGUN, Send("ann", m.Answer(7))]
    assert OVER in play.handle(ClientGone("ann"))


def test_a_worker_that_does_not_leave_is_waited_for_so_long() -> None:
    """It may be cut off; and a client that says no goodbye holds nothing up either."""
    play = Play("v")
    play.ann(ASK)
    play.now = LEAVE_WITHIN
    assert play.handle(Tick()) == [Send("ann", m.Answer(7))]
    play.now += PART_WITHIN
    assert play.handle(Tick()) == [OVER]
    assert OVER not in play.handle(ClientGone("ann"))


def test_who_asked_may_go_before_the_workers_do() -> None:
    """A program that is killed right after it asked."""
    play = Play("v")
    play.ann(ASK)
    assert OVER not in play.handle(ClientGone("ann"))
    assert OVER in play.handle(WorkerLost("v", True))


def test_whoever_asks_as_well_is_answered_as_well() -> None:
    """Whether before the workers are gone or after."""
    play = Play("v")
    play.ann(ASK)
    assert play.bob(m.Ask(3, "shutdown")) == []
    told = play.handle(WorkerLost("v", True))
    assert Send("ann", m.Answer(7)) in told
    assert Send("bob", m.Answer(3)) in told
    assert play.bob(m.Ask(4, "shutdown")) == [Send("bob", m.Answer(4))]
    assert OVER not in play.handle(ClientGone("ann"))
    assert OVER in play.handle(ClientGone("bob"))


def test_nothing_is_begun_any_more() -> None:
    """Not what waits, not what a leaving worker hands back, not even when its heartbeat was on its way."""
    play = Play("v", "w", slots=1)
    play.ann(submit("a"), submit("b"), submit("c"), submit("d"))
    play.ann(ASK)
    play.handle(WorkerBeat("v", "running", {}, 0.001))
    assert runs(play.ann(submit("e"))) == []
    assert runs(play.worker("v", finished("a", play.task("a").attempt))) == []
    assert runs(play.handle(WorkerLost("v", True))) == []
    assert play.states()["e"] == "no_worker"


def test_newcomers_are_refused_but_for_dashboards_and_who_asked() -> None:
    """A dashboard goes on to show the next scheduler; who asked may have to connect again for its answer."""
    play = Play("v")
    assert ending.refusal(play.state, "eve", {}) == ""
    play.ann(ASK)
    play.handle(ClientJoined("eve", {}))
    assert ending.refusal(play.state, "eve", {}) == "the cluster was shut down by ann"
    assert ending.refusal(play.state, "site", {"program": "dashboard"}) == ""
    assert ending.refusal(play.state, "ann", {}) == ""


def test_a_scheduler_may_refuse() -> None:
    """Where many share a cluster; nothing changes then."""
    play = Play("v", allow_shutdown=False)
    (told,) = play.ann(ASK)
    assert isinstance(told.message, m.Answer)
    assert "--no-shutdown" in told.message.error
    assert runs(play.ann(submit("a"))) == [("v", "a")]
