"""Durable results too large for the journal: nobody is told of one before it is stored, and no loss undoes it then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact
from futurebroker.scheduler import checkpoint, invariants, resuming, storing
from futurebroker.scheduler.commands import Event, Send, Tick, WorkerJoined, WorkerLost, WorkerSaid, WorkersBack
from futurebroker.scheduler.machine import SchedulerMachine
from futurebroker.scheduler.published import DURABLE
from futurebroker.scheduler.state import SchedulerState
from tests.unit.scheduler.play import LARGE, Play, finished, runs, submit, tell
from tests.unit.scheduler.projection import projection, replayed


@pytest.fixture
def play() -> Play:
    """With two workers and a database."""
    play = Play("w", "v")
    play.state.facts = []
    play.ann(m.AddFunction(b"f" * 16, "f", b"code"))
    storing.open_archive(play.state, "database")
    return play


def durable(key: str, *dependencies: str, **options: Any) -> m.Submit:
    """A call whose result must not be lost, as clients send it."""
    return submit(key, *dependencies, durable=True, **{"keep": 60.0, **options})


def tasks_of(state: SchedulerState) -> Any:
    """What must survive of them."""
    return projection(state)["tasks"]


class Successor:
    """The scheduler that comes after one of which ``facts`` and ``parts`` of a checkpoint are left."""

    def __init__(self, play: Play, facts: Sequence[AnyFact], parts: Sequence[bytes]) -> None:
        self._machine = SchedulerMachine(play.state.policy)
        self.state = self._machine.state = replayed(facts, play.state.policy, parts)
        assert tasks_of(self.state) == tasks_of(play.state)
        storing.open_archive(self.state, "database")
        resuming.ready(self.state, 2, 0.0, 5.0)

    def handle(self, event: Event) -> list[Any]:
        """Apply an event; the laws hold afterwards."""
        commands = self._machine.handle(event, 0.0)
        invariants.check(self.state)
        return commands


def held(key: str, *holders: tuple[str, str]) -> m.Held:
    """Where a large result lies."""
    return m.Held(key, LARGE, list(holders))


def finish(play: Play, key: str) -> list[Any]:
    """Whoever has the task reports that it is done."""
    task = play.task(key)
    assert task.worker is not None
    return play.worker(task.worker.worker_id, finished(key, task.attempt, None))


def stored(play: Play, key: str) -> list[Any]:
    """The database has it."""
    return play.handle(WorkerSaid(DURABLE, [m.Stored(key, LARGE, "")]))


def test_nobody_is_told_before_it_is_stored(play: Play) -> None:
    """Tasks go on with it at once; who asks meanwhile waits as well."""
    play.ann(durable("x", workers=("w",)), submit("y", "x", workers=("w",)))
    commands = play.worker("w", finished("x", 1, None))
    assert tell(DURABLE, m.Replicate(held("x", ("w", "/x")))) in commands
    assert play.task("y").state.value == "processing"
    assert not [one for one in commands if one.peer == "ann"]
    assert play.bob(m.Want(["x"])) == []
    assert "is being stored" in play.why("x")
    done = held("x", ("w", "/x"), (DURABLE, ""))
    assert stored(play, "x") == [
        tell("ann", m.KeyFinished("x", None, done)),
        tell("bob", m.KeyFinished("x", None, done)),
    ]
    play.bob(m.Release(["x"]))
    assert play.bob(m.Want(["x"])) == [tell("bob", m.KeyFinished("x", None, done))]


def test_a_stored_result_outlives_its_worker_and_the_scheduler(play: Play) -> None:
    """It isn't computed again, neither at once nor by who comes next; that one knows it by its database."""
    play.ann(durable("x", workers=("w",)))
    play.worker("w", finished("x", 1, None))
    stored(play, "x")
    assert runs(play.handle(WorkerLost("w"))) == []
    for facts, parts in ((play.state.facts or [], []), ([], list(checkpoint.dump(play.state)))):
        after = Successor(play, facts, parts)
        assert after.state.untold
        commands = after.handle(WorkerSaid(DURABLE, [m.Inventory([("x", LARGE, "")], last=True)]))
        assert commands == [tell("ann", m.KeyFinished("x", None, held("x", (DURABLE, ""))))]
        after.handle(WorkerJoined("v", {"name": "v", "slots": 1}))
        assert runs(after.handle(WorkersBack())) == []
        assert after.state.tasks["x"].state.value == "memory"


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_lost_before_it_is_stored_is_made_again(play: Play, is_kept: bool) -> None:
    """Nobody knew of it; and a scheduler that comes back does the same."""
    play.ann(durable("x", keep=60.0 if is_kept else 0.0))
    play.worker("w", finished("x", 1, None))
    assert runs(play.handle(WorkerLost("w"))) == [("v", "x")]
    again = replayed(play.state.facts or [], play.state.policy)
    assert tasks_of(again) == tasks_of(play.state)
    play.worker("v", finished("x", 2, None))
    assert [one.peer for one in stored(play, "x")] == ["ann"]


def test_a_restart_before_it_is_stored_has_it_stored_or_made_again(play: Play) -> None:
    """By the worker that still has it, or another."""
    play.ann(durable("x"))
    play.worker("w", finished("x", 1, None))
    for comes_back in (True, False):
        after = Successor(play, play.state.facts or [], [])
        after.handle(WorkerSaid(DURABLE, [m.Inventory([], last=True)]))
        after.handle(WorkerJoined("w", {"name": "w", "slots": 1}))
        after.handle(WorkerSaid("w", [m.Inventory([("x", LARGE, "/x")] if comes_back else [], last=True)]))
        commands = after.handle(WorkersBack())
        replicate = tell(DURABLE, m.Replicate(held("x", ("w", "/x"))))
        assert (replicate in commands, runs(commands)) == (comes_back, [] if comes_back else [("w", "x")])
        assert not [one for one in commands if isinstance(one, Send) and isinstance(one.message, m.KeyFinished)]


def test_what_must_not_run_twice_fails_if_it_is_lost_before_it_is_stored(play: Play) -> None:
    """It has had its effects; the same holds of large results that aren't durable."""
    play.ann(durable("x", at_most_once=True), submit("y", at_most_once=True))
    for key in ("x", "y"):
        finish(play, key)
    lost = [*play.handle(WorkerLost("w")), *play.handle(WorkerLost("v"))]
    assert play.states() == {"x": "erred", "y": "erred"}
    told = [one.message for one in lost if isinstance(one, Send) and isinstance(one.message, m.KeyErred)]
    assert {one.failure.type for one in told} == {"DataLostError"}
    assert tasks_of(replayed(play.state.facts or [], play.state.policy)) == tasks_of(play.state)


def test_a_database_that_takes_nothing_is_tried_again(play: Play) -> None:
    """The client waits; the task's story says why."""
    play.ann(durable("x"))
    play.worker("w", finished("x", 1, None))
    assert play.handle(WorkerSaid(DURABLE, [m.NotStored("x", "the disk is full")])) == []
    assert "the disk is full" in play.state.operations.notes[-1].what
    play.now = storing.AGAIN_AFTER_TROUBLE
    assert play.handle(Tick()) == [tell(DURABLE, m.Replicate(held("x", ("w", "/x"))))]


def test_a_damaged_copy_is_stored_again_while_a_worker_has_it(play: Play) -> None:
    """Clients hear nothing of that. Without a worker's copy the result is lost, and says so."""
    play.ann(durable("x"))
    play.worker("w", finished("x", 1, None))
    stored(play, "x")
    damaged = m.DataLost("x", "altered")
    commands = play.handle(WorkerSaid(DURABLE, [damaged]))
    assert tell(DURABLE, m.Replicate(held("x", ("w", "/x")))) in commands
    assert not [one for one in commands if one.peer == "ann"]
    assert stored(play, "x") == []
    play.handle(WorkerLost("w"))
    play.handle(WorkerSaid(DURABLE, [damaged]))
    assert play.states() == {"x": "erred"}


def test_what_nobody_wants_any_more_is_freed_where_it_is_stored(play: Play) -> None:
    """Also if it is stored only after that."""
    play.ann(durable("x", keep=0.0), durable("y", keep=0.0))
    for key in ("x", "y"):
        finish(play, key)
    stored(play, "x")
    assert tell(DURABLE, m.Free(["x"])) in play.ann(m.Release(["x", "y"]))
    assert stored(play, "y") == [tell(DURABLE, m.Free(["y"]))]
    assert (play.states(), play.state.untold) == ({}, {})


def test_without_a_journal_clients_are_told_at_once() -> None:
    """There is nothing to wait for."""
    play = Play("w")
    play.ann(durable("x"))
    assert [one.peer for one in play.worker("w", finished("x", 1, None))] == ["ann"]
