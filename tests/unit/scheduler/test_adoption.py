"""Tasks that run since a former scheduler's time."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import Send, WorkerLost
from tests.unit.scheduler.play import FUNCTION, Play, finished, runs, submit, tell


def running(*keys: str, function: bytes = FUNCTION) -> m.Inventory:
    """What a worker tells of tasks that its executors have."""
    return m.Inventory([], [], [(key, function) for key in keys])


def test_what_runs_is_not_run_again() -> None:
    """Neither it nor what it is made from; what follows on it is sent ahead as ever."""
    play = Play("w")
    play.worker("w", running("b"))
    calls = [submit("a"), submit("b", "a"), submit("c", "b"), m.Release(["a", "b"])]
    assert play.ann(*calls) == [Send("w", m.Adopt("b", 1)), play.run("w", "c", 2, m.Held("b"))]
    assert play.states() == {"a": "released", "b": "processing", "c": "processing"}
    play.worker("w", finished("b", 1), finished("c", 2))
    assert play.states() == {"c": "memory"}
    assert play.state.adopted == {}


def test_what_was_begun_for_it_meanwhile_is_dropped() -> None:
    """Its client was here before its worker, so its inputs were on their way."""
    play = Play("v")
    play.ann(submit("a"), submit("b", "a"), submit("c", "b"), m.Release(["a", "b"]))
    assert set(play.states().values()) == {"processing"}
    play.join("w")
    commands = play.worker("w", running("b"))
    assert [one.message for one in commands if one.peer == "w"] == [m.Adopt("b", 4)]
    assert {one.message.key for one in commands if isinstance(one.message, m.Drop)} == {"a", "b", "c"}
    assert play.states() == {"a": "released", "b": "processing", "c": "waiting"}
    assert runs(play.worker("w", finished("b", 4))) in ([("w", "c")], [("v", "c")])


def test_what_comes_back_is_run_with_all_it_needs() -> None:
    """It ended or was never begun while nobody knew of it."""
    play = Play("w")
    play.worker("w", running("b"))
    play.ann(submit("a"), submit("b", "a"), m.Release(["a"]))
    assert play.states() == {"a": "released", "b": "processing"}
    assert ("w", "a") in runs(play.worker("w", m.GaveBack("b", 1)))
    play.worker("w", finished("a", play.task("a").attempt))
    assert play.states() == {"a": "memory", "b": "processing"}


def test_who_began_first_goes_on() -> None:
    """What was sent to another worker meanwhile is dropped there."""
    play = Play("w")
    play.ann(submit("x"))
    play.join("v")
    assert play.worker("v", running("x")) == [Send("w", m.Drop("x", 1)), Send("v", m.Adopt("x", 2))]
    assert play.worker("w", finished("x", 1)) == [Send("w", m.Free(["x"]))]
    assert play.worker("v", finished("x", 2)) == [
        tell("ann", m.KeyFinished("x", b"1")), Send("v", m.Free(["x"])),
    ]  # fmt: skip


def test_a_run_under_way_to_the_same_worker_is_left_alone() -> None:
    """The worker answers it with what runs."""
    play = Play("w")
    play.ann(submit("x"))
    assert play.worker("w", running("x")) == []


def test_the_loss_of_the_worker_ends_what_was_adopted() -> None:
    """It is computed like any other then, inputs first."""
    play = Play("w", "v")
    play.worker("w", running("b"))
    play.ann(submit("a"), submit("b", "a"))
    assert play.task("b").worker is play.state.workers["w"]
    play.handle(WorkerLost("w"))
    play.worker("v", finished("a", play.task("a").attempt))
    assert play.states() == {"a": "memory", "b": "processing"}
    assert play.state.adopted == {}


@pytest.mark.parametrize(
    ("function", "options"),
    [(b"g" * 16, {}), (FUNCTION, {"workers": ("v",)}), (FUNCTION, {"resources": {"gpu": 1.0}})],
)
def test_what_must_not_run_there_is_not_adopted(function: bytes, options: dict[str, Any]) -> None:
    """Another function under this key, another worker, or a resource the worker doesn't have."""
    play = Play("w")
    play.worker("w", running("x", function=function))
    play.ann(submit("x", **options))
    assert play.state.adopted == {}
    assert play.state.claims == {}


def test_what_nobody_asks_for_is_forgotten() -> None:
    """The claim goes after the grace time, and with its worker."""
    play = Play("w", "v", claim_grace=30.0)
    play.worker("w", running("x"))
    play.worker("v", running("y"))
    play.handle(WorkerLost("v"))
    assert list(play.state.claims) == ["x"]
    play.now = 31.0
    play.ann()
    assert play.state.claims == {}
