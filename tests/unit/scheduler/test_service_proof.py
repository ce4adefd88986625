"""Proof that a silent worker of another machine is dead: another worker there can see it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from futurebroker.processes import process_mark
from futurebroker.protocol import messages as m
from futurebroker.scheduler import service
from tests.unit.scheduler.served import World, in_a_world

GRACE = {"suspect_grace": 600.0}


def mark_of_a_dead_process() -> str:
    """What a process of this machine was called that has ended."""
    program = "from futurebroker.processes import process_mark; print(process_mark())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler sees none of the workers' processes."""
    monkeypatch.setattr(service, "has_ended", lambda mark: False)


def test_a_neighbour_s_word_ends_the_grace() -> None:
    """It can't be running any more, so to wait would only cost time."""

    async def scenario(world: World) -> None:
        dead = await world.worker("w1", process=mark_of_a_dead_process())
        await world.worker("w2", process=process_mark())
        dead.cut(for_good=True)
        await world.service.notes.until(lambda: "w1" in world.service.forgotten)
        assert list(world.service.machine.state.workers) == ["w2"]

    in_a_world(scenario, **GRACE)


@pytest.mark.parametrize("process", [process_mark(), "elsewhere 1 2 3", ""], ids=["alive", "elsewhere", "unknown"])
def test_who_lives_or_can_not_be_seen_keeps_its_grace(process: str) -> None:
    """A closed connection alone proves nothing."""

    async def scenario(world: World) -> None:
        cut = await world.worker("w1", process=process)
        neighbour = await world.worker("w2", process=process_mark())
        cut.cut(for_good=True)
        await world.service.notes.until(lambda: world.service.suspected == ["w1"])
        for _ in range(3):
            await neighbour.beat()
        assert set(world.service.machine.state.workers) == {"w1", "w2"}

    in_a_world(scenario, **GRACE)


def test_a_word_about_a_process_that_was_followed_by_another_counts_for_nothing() -> None:
    """The worker has come back under its name meanwhile."""

    async def scenario(world: World) -> None:
        await world.worker("w1", process="m n 1 1")
        witness = await world.worker("w2", process="m n 2 2")
        for process, worker in (("m n 1 1", "w1"), ("m n 0 0", "w1"), ("m n 9 9", "unknown")):
            answer = m.LookedFor(worker, process, True)
            witness.member._endpoint.send_meeting(witness.member._scheduler(), witness.member._queue, answer)
        await witness.beat()
        assert set(world.service.machine.state.workers) == {"w1", "w2"}

    in_a_world(scenario, **GRACE)


def test_a_token_that_comes_back_makes_its_holder_suspect() -> None:
    """And one that is said to be held by another has lost its former holder."""

    async def scenario(world: World) -> None:
        await world.worker("w1", token="t1")
        await world.worker("w2", token="t2")
        world.service.returned("t0")
        assert world.service.suspected == []
        world.service.returned("t1")
        assert world.service.suspected == ["w1"]
        await world.worker("w3", token="t2")
        assert world.service.suspected == ["w1", "w2"]

    in_a_world(scenario, **GRACE)
