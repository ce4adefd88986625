"""Schedulers with a journal over many seeds: killed before, inside and after commits, with a database that fails."""

from __future__ import annotations

import os
from typing import Any

import pytest

from futurebroker.protocol.messages import KeyFinished
from futurebroker.protocol.session import Session
from futurebroker.scheduler.commands import Command, Send
from tests.sim.durable import DurableSimScheduler
from tests.sim.scenario import HARSH_QUIET, Scenario, SimulationFailed
from tests.sim.scheduler import SimScheduler

CHUNK = 25
SEEDS = int(os.environ.get("FUTUREBROKER_TEST_SEEDS", "1000")) // 5


@pytest.mark.parametrize("first", range(200_000, 200_000 + SEEDS, CHUNK))
def test_every_seed_ends_right(first: int) -> None:
    """Whatever a client was told is still so afterwards (I12), and everything ends as if nothing had happened."""
    for seed in range(first, first + CHUNK):
        Scenario(seed, quiet_within=HARSH_QUIET if seed % 2 else 12.0, harsh=seed % 2 == 1, durable=True).run()


def tell_at_once(scheduler: DurableSimScheduler, commands: list[Command]) -> None:
    """A planted bug: clients hear of results before these are written."""
    told = [one for one in commands if isinstance(one, Send) and isinstance(one.message, KeyFinished)]
    SimScheduler.let_out(scheduler, list(told))
    scheduler._told_keys |= {one.message.key for one in told if isinstance(one.message, KeyFinished)}
    _LET_OUT(scheduler, [one for one in commands if one not in told])


_LET_OUT = DurableSimScheduler.let_out


@pytest.mark.parametrize(
    ("place", "name", "bug"),
    [(DurableSimScheduler, "let_out", tell_at_once), (Session, "hold_acks", lambda session: None)],
)
def test_the_simulator_finds_what_is_told_too_early(
    monkeypatch: pytest.MonkeyPatch, place: type, name: str, bug: Any
) -> None:
    """A result that a client knows of, or an envelope that nobody sends again, must not be lost."""
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(SimulationFailed):
        _run_all(range(1000))


def _run_all(seeds: range) -> None:
    for seed in seeds:
        Scenario(seed, durable=True).run()
