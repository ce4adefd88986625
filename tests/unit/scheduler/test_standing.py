"""What every executor has: who is told of it when a worker or a scheduler comes, and which of two versions counts."""

from __future__ import annotations

from typing import Any

import msgspec

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact
from futurebroker.scheduler import checkpoint
from futurebroker.scheduler.commands import Send, WorkerJoined
from futurebroker.scheduler.state import Policy, SchedulerState
from futurebroker.states import WorkerStatus
from tests.unit.scheduler.play import Play, submit
from tests.unit.scheduler.projection import replayed

NEW = m.Parcel("new", "00ff", 9, b"signed")


def join(play: Play, name: str, **info: Any) -> list[Any]:
    """A worker joins; the messages it gets."""
    commands = play.handle(WorkerJoined(name, {"name": name, "host": "h", "slots": 1, "resources": {}, **info}))
    return [one.message for one in commands if isinstance(one, Send) and one.peer == name]


def said(commands: list[Any], kind: type[m.Message]) -> list[Any]:
    """The messages of one kind."""
    return [one.message for one in commands if isinstance(one, Send) and isinstance(one.message, kind)]


def call(name: str, code: bytes = b"code") -> m.RunOnExecutors:
    """A call that stands."""
    return m.RunOnExecutors(1, code, b"args", keep=name)


def test_a_worker_is_told_what_it_lacks_and_nothing_else() -> None:
    """Its executors would set a plugin up twice, or never."""
    play = Play("w1")
    play.ann(call("a"), call("b"), call("c"))
    marks = {name: one.mark for name, one in play.state.operations.standing.items()}
    assert sorted(marks.values()) == list(marks.values())
    told = join(play, "w2", standing={"a": marks["a"], "b": marks["b"] - 1})
    assert [(one.keep, one.mark) for one in told] == [("b", marks["b"]), ("c", marks["c"])]
    assert join(play, "w3", standing=marks) == []


def test_a_worker_that_missed_the_end_of_a_call_is_told_of_it() -> None:
    """It would give the call back to the next scheduler."""
    play = Play("w1")
    play.ann(call("a"))
    mark = play.state.operations.standing["a"].mark
    play.ann(m.RunOnExecutors(2, b"tear down", b"", drop="a"))
    (told,) = join(play, "w2", standing={"a": mark})
    assert (told.code, told.keep, told.drop) == (b"tear down", "", "a")
    assert join(play, "w3") == []


def test_a_new_scheduler_is_given_the_calls_that_stand() -> None:
    """By the first worker that has each; those that came before it get it then, the newest of several versions."""
    play = Play()
    assert join(play, "new") == []
    assert join(play, "old", standing={"a": 5.0, "b": 7.0}) == [m.StandingWanted(["a", "b"])]
    commands = play.worker(
        "old", m.StandingGiven("b", 7.0, b"second", b""), m.StandingGiven("a", 5.0, b"first", b""),
    )  # fmt: skip
    told = [(one.peer, one.message.keep, one.message.code) for one in commands]
    assert told == [("new", "b", b"second"), ("new", "a", b"first")]
    assert list(play.state.operations.standing) == ["a", "b"]
    assert join(play, "newer", standing={"a": 6.0, "b": 7.0}) == [m.StandingWanted(["a"])]
    commands = play.worker("newer", m.StandingGiven("a", 6.0, b"renewed", b""))
    assert sorted(one.peer for one in commands) == ["new", "old"]
    assert play.worker("old", m.StandingGiven("a", 5.0, b"first", b"")) == []


def test_a_new_scheduler_learns_the_environment_from_who_changed_last() -> None:
    """It was killed while the executors of several workers changed."""
    play = Play()
    rows = [("new", "00ff", 9, b"signed", "3.11")]
    assert join(play, "behind") == []
    assert join(play, "ahead", environment=("new", 5.0), environments=rows) == []
    assert play.state.operations.environment == NEW
    assert play.state.workers["behind"].status is WorkerStatus.PAUSED
    assert play.state.operations.environments["new"].python == "3.11"
    (told,) = join(play, "late")
    assert (told.change, told.environment, told.mark) == (True, NEW, 5.0)
    play.worker("late", m.Settled(told.number))
    assert play.state.workers["late"].status is WorkerStatus.RUNNING
    assert join(play, "same", environment=("new", 5.0), environments=rows) == []


def test_a_worker_that_was_away_while_others_changed_back_changes_too() -> None:
    """None is an environment like any other."""
    play = Play("w1")
    rows = [("new", "00ff", 9, b"signed", "3.11")]
    about = {"name": "new", "digest": "00ff", "nbytes": 9, "signature": b"signed", "python": "3.11"}
    play.ann(m.Ask(1, "add_environment", about))
    play.state.operations.environments["new"].is_complete = True
    prepare = said(play.ann(m.Ask(2, "use_environment", {"name": "new"})), m.Prepare)
    (change,) = said(play.worker("w1", m.Settled(prepare[0].number)), m.RestartExecutors)
    play.worker("w1", m.Settled(change.number))
    (change,) = said(play.ann(m.Ask(3, "use_environment", {"name": None})), m.RestartExecutors)
    play.worker("w1", m.Settled(change.number))
    (told,) = join(play, "away", environment=("new", change.mark - 0.001), environments=rows)
    assert (told.change, told.environment, told.mark) == (True, None, change.mark)


def test_what_stands_survives_in_journal_and_checkpoint() -> None:
    """Both ways lead to the same, without any worker."""
    play = Play("w1")
    facts: list[AnyFact] = []
    play.state.facts = facts
    about = {"name": "new", "digest": "00ff", "nbytes": 9, "signature": b"signed", "python": "3.11"}
    play.ann(call("a"), call("gone"), call("b"), submit("x"))
    play.ann(m.RunOnExecutors(4, b"tear down", b"", drop="gone"))
    play.ann(m.Ask(1, "add_environment", about))
    play.state.operations.environments["new"].is_complete = True
    (prepare,) = said(play.ann(m.Ask(2, "use_environment", {"name": "new"})), m.Prepare)
    play.worker("w1", m.Settled(prepare.number))
    expected = _standing(play.state)
    assert expected["environment"] == "new"
    assert [row[0] for row in expected["standing"]] == ["a", "b"]
    assert _standing(replayed(facts, Policy())) == expected
    parts = list(checkpoint.dump(play.state))
    assert _standing(replayed([], Policy(), parts)) == expected


def _standing(state: SchedulerState) -> Any:
    rows = dict(list(dict(checkpoint.rows_of(state))["extras"]))
    return msgspec.msgpack.decode(msgspec.msgpack.encode(rows["standing"]))
