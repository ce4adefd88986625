"""Kept results leave the memory for the database, and come back for who asks; a replay comes to the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact, Shelved
from futurebroker.scheduler import checkpoint, resuming, shelving
from futurebroker.scheduler.commands import ClientGone, ClientJoined, Event, Send, Tick, WorkerSaid
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.shelving import SHELF, Drop, Seek, Shelve, Sought, Written
from futurebroker.scheduler.state import SchedulerState, Shelf
from tests.unit.scheduler.play import Play, failure, finished, submit, tell
from tests.unit.scheduler.projection import copy_of, projection, replayed

DAY = 86_400.0


class Played(Play):
    """With a database that holds what left, as the tests say when it does."""

    def handle(self, *events: Event) -> list[Any]:
        """See `Play.handle`; what goes to the shelf is noted apart."""
        commands = super().handle(*events)
        self.told += [one.message for one in commands if isinstance(one, Send) and one.peer == SHELF]
        return [one for one in commands if one.peer != SHELF]

    def __init__(self, **policy: Any) -> None:
        self.told: list[Any] = []
        super().__init__("w", **{"results_leave": 60.0, **policy})
        self.facts: list[AnyFact] = []
        self.state.facts = self.facts
        self.state.shelf = Shelf()
        self.ann(m.AddFunction(b"f" * 16, "f", b"code"))
        self.bob(m.AddFunction(b"f" * 16, "f", b"code"))
        self.rows: dict[str, bytes] = {}

    def begin_with(self, state: SchedulerState) -> None:
        """Go on with what was restored."""
        self.machine.state = self.state = state
        state.shelf = Shelf()

    def finish(self, *keys: str, **options: Any) -> None:
        """Submit and finish these, and let go of their futures."""
        for key in keys:
            self.ann(submit(key, durable=True, **{"leaves": True, "keep": DAY, **options}))
            self.worker("w", finished(key, self.task(key).attempt, key.encode()))
        self.ann(m.Release(list(keys)))

    def wait(self, seconds: float) -> list[Any]:
        """Time goes by; returns what the shelf is told."""
        self.now += seconds
        self.handle(Tick())
        return self.take()

    def take(self) -> list[Any]:
        """What the shelf was told lately."""
        told, self.told = self.told, []
        return told

    def write(self, told: Sequence[Any], trouble: str = "") -> list[Any]:
        """The database writes, or can't."""
        commands: list[Any] = []
        for one in told:
            assert isinstance(one, Shelve)
            if not trouble:
                self.rows |= {key: body for key, _, body in one.rows}
            commands += self.handle(WorkerSaid(SHELF, [Written([key for key, _, _ in one.rows], trouble)]))
        return commands

    def look_up(self) -> list[Any]:
        """The database answers what it was asked."""
        asked = [one for one in self.take() if isinstance(one, Seek)]
        answers = [Sought(one.number, [self.rows[key] for key in one.keys if key in self.rows]) for one in asked]
        return self.handle(*(WorkerSaid(SHELF, [answer]) for answer in answers))

    def check_replay(self) -> None:
        """The facts lead to the same tasks, from the start and from a checkpoint in between."""
        again = replayed(copy_of(self.facts), self.state.policy)
        assert projection(again)["tasks"] == projection(self.state)["tasks"]
        loaded = replayed([], self.state.policy, list(checkpoint.dump(self.state)))
        assert projection(loaded)["tasks"] == projection(self.state)["tasks"]


@pytest.fixture
def play() -> Played:
    """A scheduler with a database."""
    return Played()


def test_what_nobody_holds_leaves_after_a_while(play: Played) -> None:
    """A day's results would not fit into memory; what left is written before the record goes."""
    play.finish("x", "y")
    assert play.wait(59.0) == []
    told = play.wait(2.0)
    assert [[(key, until) for key, until, _ in one.rows] for one in told] == [[("x", DAY), ("y", DAY)]]
    assert play.states() == {"x": "memory", "y": "memory"}
    play.write(told)
    assert play.states() == {}
    assert play.facts[-1] == Shelved(play.now, ["x", "y"])
    assert not play.state.ended[DAY]
    play.check_replay()


def test_what_is_too_much_leaves_at_once_oldest_first() -> None:
    """A burst fills memory faster than a minute goes by."""
    play = Played(results_kept=2)
    play.finish("a", "b", "c", "d")
    assert [key for one in play.told for key, _, _ in one.rows] == ["a", "b"]
    play.write(play.take())
    assert play.states() == {"c": "memory", "d": "memory"}


def test_what_somebody_holds_or_needs_stays(play: Played) -> None:
    """Futures, dependents, keys that may come again, and promises of another kind."""
    play.finish("other", leaves=False)
    play.finish("idle")
    play.bob(m.Want(["idle"]))
    assert play.wait(61.0) == []
    play.bob(m.Release(["idle"]))
    play.ann(submit("next", "idle"))
    assert play.wait(61.0) == []
    play.worker("w", finished("next", play.task("next").attempt))
    play.ann(m.Release(["next"]))
    play.write(play.wait(61.0))
    assert play.states() == {"other": "memory"}
    play.check_replay()


def test_who_asks_for_a_key_gets_what_left(play: Played) -> None:
    """By a future, by waiting, and by looking; the answer waits for the database."""
    play.finish("x", "y", "z")
    play.write(play.wait(61.0))
    assert play.bob(m.Want(["x"])) == []
    assert play.told == [Seek(1, ["x"])]
    assert play.look_up() == [tell("bob", m.KeyFinished("x", b"x"))]
    play.bob(m.Await(["y"]))
    assert play.look_up() == [tell("bob", m.KeyFinished("y", b"y", None))]
    play.bob(m.Ask(7, "task_metas", ["z", "never"]))
    (answer,) = play.look_up()
    assert answer.message.number == 7
    assert [one and (one["status"], one["date_done"]) for one in answer.message.value] == [("SUCCESS", 0.0), None]
    play.check_replay()
    play.bob(m.Release(["x", "y"]))
    play.write(play.wait(61.0))
    assert play.states() == {}
    play.check_replay()


def test_a_key_that_nobody_has_is_still_unknown(play: Played) -> None:
    """The database was asked and has nothing."""
    play.bob(m.Want(["no"]))
    assert play.look_up() == [
        tell("bob", m.KeyCancelled("no", "its task is not known; it was released or cancelled", "lost"))
    ]
    play.bob(m.Await(["later"]))
    assert play.look_up() == []
    play.ann(submit("later"))
    assert tell("bob", m.KeyFinished("later", b"1")) in play.worker("w", finished("later", 1))


def test_failures_and_what_was_agreed_come_back_too(play: Played) -> None:
    """States, parents and reasons are part of a result."""
    options = m.TaskOptions(durable=True, keep=DAY, leaves=True, queue="q")
    row = m.Submit(b"f" * 16, ["x"], [b""], None, options, conditions=[m.Conditions(parent="p", request=b"r")])
    play.state.workers["w"].queues = {"q": None, "celery": None}
    play.ann(row)
    play.worker("w", m.Erred("x", play.task("x").attempt, failure("x")))
    play.ann(m.Release(["x"]))
    before = play.state.tasks["x"]
    (meta,) = _metas(play, "x")
    play.write(play.wait(61.0))
    assert play.states() == {}
    play.ann(m.Ask(1, "task_metas", ["x"]))
    play.look_up()
    assert _metas(play, "x") == [meta]
    assert _agreed(play.task("x")) == _agreed(before)
    assert play.bob(m.Want(["x"])) == [tell("bob", m.KeyErred("x", failure("x")))]


def _metas(play: Played, key: str) -> list[Any]:
    (answer,) = play.ann(m.Ask(9, "task_metas", [key]))
    return answer.message.value  # type: ignore[no-any-return]


def _agreed(task: TaskRecord) -> Any:
    assert task.terms is not None
    return task.failure, task.terms.parent, task.terms.request, task.kind.name, task.pool.options


def test_what_changed_while_it_was_written_stays(play: Played) -> None:
    """Somebody wants it again, or it isn't kept any more; the row is then one too many, and does no harm."""
    play.finish("x", "y")
    told = play.wait(61.0)
    play.bob(m.Want(["x"]))
    play.ann(m.Ask(1, "forget_results", ["y"]))
    assert play.take() == [Drop(["y"])]
    assert play.states() == {"x": "memory"}
    play.write(told)
    assert play.states() == {"x": "memory"}
    play.check_replay()


def test_a_database_that_can_not_write_is_tried_again(play: Played) -> None:
    """Nothing leaves meanwhile."""
    play.finish("x")
    play.write(play.wait(61.0), trouble="full")
    assert play.wait(1.0) == []
    told = play.wait(61.0)
    assert [key for one in told for key, _, _ in one.rows] == ["x"]
    play.write(told)
    assert play.states() == {}


def test_who_forgets_a_result_has_it_deleted_wherever_it_is(play: Played) -> None:
    """A row that was left behind would bring it back."""
    play.finish("x")
    play.write(play.wait(61.0))
    play.ann(m.Ask(1, "forget_results", ["x"]))
    assert play.take() == [Drop(["x"])]


def test_a_client_that_left_asks_nothing_any_more(play: Played) -> None:
    """The answer of the database comes too late for it."""
    play.finish("x")
    play.write(play.wait(61.0))
    play.bob(m.Want(["x"]), m.Ask(1, "task_metas", ["x"]))
    play.handle(ClientGone("bob"), ClientJoined("bob", {}))
    assert play.look_up() == []
    play.check_replay()


def test_who_lets_go_before_the_answer_holds_nothing(play: Played) -> None:
    """Else the result would stay in memory for somebody who doesn't know of it."""
    play.finish("x")
    play.write(play.wait(61.0))
    play.bob(m.Want(["x"]), m.Release(["x"]))
    assert play.look_up() == []
    assert play.task("x").wanted_by is play.state.kept
    play.check_replay()


def test_without_a_database_the_oldest_are_forgotten_beyond_the_bound() -> None:
    """A scheduler on a laptop must not grow for a day either."""
    play = Play("w", results_kept=2)
    for key in "abcd":
        play.ann(submit(key, keep=DAY, leaves=True))
        play.worker("w", finished(key, play.task(key).attempt))
        play.ann(m.Release([key]))
    play.now += 1.0
    play.handle(Tick())
    assert play.states() == {"c": "memory", "d": "memory"}
    play.now += 61.0
    play.handle(Tick())
    assert play.states() == {"c": "memory", "d": "memory"}


def test_a_chain_leaves_link_by_link(play: Played) -> None:
    """What follows names what it follows on, as long as it may have to run again."""
    options: dict[str, Any] = {"durable": True, "keep": DAY, "leaves": True}
    play.ann(submit("a", **options), submit("b", "a", **options))
    for key in "ab":
        play.worker("w", finished(key, play.task(key).attempt))
    play.ann(m.Release(["a", "b"]))
    play.write(play.wait(61.0))
    play.write(play.wait(61.0))
    assert play.states() == {}
    play.check_replay()


def shelved_failure(*needs: str, **options: Any) -> Played:
    """A failure that left the memory, and was looked up again by somebody who wants it."""
    play = Played()
    play.finish(*needs, leaves=False)
    play.ann(submit("x", *needs, args=b"args", leaves=True, keep=DAY, **options))
    play.worker("w", m.Erred("x", play.task("x").attempt, failure("x")))
    play.ann(m.Release(["x"]))
    play.write(play.wait(61))
    assert "x" not in play.state.tasks
    play.ann(m.Await(["x"]))
    (told,) = play.look_up()
    assert told == tell("ann", m.KeyErred("x", failure("x")))
    return play


def test_a_failure_that_left_can_be_retried() -> None:
    """Its call has left with it, also when no client has the function any more."""
    play = shelved_failure()
    play.check_replay()
    first, run = play.ann(m.Retry(["x"]))
    assert first == tell("ann", m.KeyLost("x"))
    assert (run.peer, run.message.key, run.message.args) == ("w", "x", b"args")
    play.worker("w", finished("x", run.message.attempt))
    assert play.states() == {"x": "memory"}
    play.check_replay()


def test_a_failure_that_left_and_had_inputs_says_what_to_do() -> None:
    """They may be gone. Its client would wait for ever if it heard nothing."""
    play = shelved_failure("input")
    (told,) = play.ann(m.Retry(["x"]))
    assert isinstance(told.message, m.KeyCancelled)
    assert "submit it again" in told.message.reason
    play.check_replay()


def test_a_call_too_large_for_its_row_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database isn't a second journal."""
    monkeypatch.setattr(shelving, "CALL_BYTES", 5)
    (told,) = shelved_failure().ann(m.Retry(["x"]))
    assert isinstance(told.message, m.KeyCancelled)


@pytest.mark.parametrize("folded", [False, True], ids=["journal", "checkpoint"])
def test_what_was_being_looked_for_when_the_scheduler_died_is_looked_for_again(folded: bool) -> None:
    """Nobody would answer who asked: one waits only for the shelf, the other for whoever submits it later."""
    play = Played()
    play.ann(m.Want(["x"]))
    play.bob(m.Await(["x"]))
    assert [one.keys for one in play.take()] == [["x"], ["x"]]
    facts = copy_of(play.facts)
    parts: Sequence[bytes] = ()
    if folded:
        parts, facts = list(checkpoint.dump(replayed(facts, play.state.policy))), []
    again = Played()
    again.begin_with(replayed(facts, play.state.policy, parts))
    resuming.ready(again.state, 1, again.now, 10.0)
    assert again.handle(Tick()) == []
    assert again.look_up() == [
        tell("ann", m.KeyCancelled("x", "its task is not known; it was released or cancelled", "lost"))
    ]
    assert [client.client_id for client in again.state.expected["x"]] == ["bob"]
