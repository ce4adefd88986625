"""Limits that operators set for tasks of a name: they outlive the scheduler, with a journal and without."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact
from futurebroker.protocol.serialize import loads, loads_writable
from futurebroker.scheduler import checkpoint
from futurebroker.scheduler.commands import WorkerJoined
from futurebroker.scheduler.limits import WORD
from futurebroker.scheduler.state import Policy, SchedulerState
from tests.unit.scheduler.play import Play
from tests.unit.scheduler.projection import replayed
from tests.unit.scheduler.test_standing import join

RATE, TIME = ["rate_limit", ["tasks.add", 2.0, True]], ["time_limit", ["tasks.add", 1.0, 3.0]]


def held(state: SchedulerState) -> Any:
    """The limits of ``tasks.add``."""
    kind = state.kind("tasks.add")
    return kind.limits, kind.rate and (kind.rate.per_second, kind.rate.for_all), kind.is_rate_set


def test_workers_give_limits_to_the_next_scheduler() -> None:
    """It knows nothing of them otherwise; each worker has them as calls, that it makes and that do nothing."""
    play = Play("w")
    (answer,) = [one.message for one in play.ann(m.Ask(1, "limit_tasks", RATE)) if one.peer == "ann"]
    assert answer.value == {"w": {"ok": "new rate limit set successfully"}}
    play.ann(m.Ask(2, "limit_tasks", TIME))
    expected = (1.0, 3.0), (2.0, True), True
    assert held(play.state) == expected
    told = join(play, "late")
    assert [one.keep.split() for one in told] == [[WORD, kind, "tasks.add"] for kind in ("rate_limit", "time_limit")]
    for one in told:
        args, kwargs = loads_writable(one.args)
        assert loads(one.code)(*args, **kwargs) is True
    other = Play("before")
    marks = {one.keep: one.mark for one in told}
    assert join(other, "late", standing=marks) == [m.StandingWanted(list(marks))]
    given = [m.StandingGiven(one.keep, one.mark, one.code, one.args) for one in told]
    commands = other.worker("late", *given)
    assert held(other.state) == expected
    assert {one.peer for one in commands} == {"before"}


def test_of_two_limits_the_newer_counts() -> None:
    """A worker that was away when a limit was lifted mustn't bring it back."""
    play = Play("w")
    play.ann(m.Ask(1, "limit_tasks", RATE))
    (old,) = play.state.operations.standing.values()
    play.now += 1
    play.ann(m.Ask(2, "limit_tasks", ["rate_limit", ["tasks.add", 0.0, False]]))
    (new,) = play.state.operations.standing.values()
    assert [(one.keep, one.mark) for one in join(play, "away", standing={old.keep: old.mark})] == [(new.keep, new.mark)]
    fresh = Play()
    fresh.handle(WorkerJoined("w", {"name": "w", "host": "h", "slots": 1, "standing": {new.keep: new.mark}}))
    fresh.worker("w", m.StandingGiven(new.keep, new.mark, new.code, new.args))
    join(fresh, "away", standing={old.keep: old.mark})
    assert fresh.worker("away", m.StandingGiven(old.keep, old.mark, old.code, old.args)) == []
    assert held(fresh.state) == (None, None, True)


def test_limits_survive_in_journal_and_checkpoint() -> None:
    """Without any worker."""
    play = Play("w")
    facts: list[AnyFact] = []
    play.state.facts = facts
    play.ann(m.Ask(1, "limit_tasks", RATE), m.Ask(2, "limit_tasks", TIME))
    assert held(replayed(facts, Policy())) == held(play.state)
    assert held(replayed([], Policy(), list(checkpoint.dump(play.state)))) == held(play.state)


def test_a_limit_that_is_none_is_refused_or_left_alone() -> None:
    """Nothing of it is kept."""
    play = Play("w")
    (answer,) = play.ann(m.Ask(1, "limit_tasks", ["time_limit", ["tasks.add", 9.0, 3.0]]))
    assert "must not be longer" in answer.message.error
    (answer,) = play.ann(m.Ask(2, "limit_tasks", ["depth", ["tasks.add", 9.0]]))
    assert "there are rate_limit, time_limit" in answer.message.error
    assert play.state.operations.standing == {}
    join(play, "odd", standing={"futurebroker.limit depth x": 1.0})
    play.worker("odd", m.StandingGiven("futurebroker.limit depth x", 1.0, b"", b""))
    assert play.state.counters["unexpected"] == 1
