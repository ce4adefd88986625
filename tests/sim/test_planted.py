"""The simulator finds bugs: each one of the bank, within a bounded number of seeds."""

from __future__ import annotations

import pytest

from tests.sim.planted import agreed as _agreed  # noqa: F401 - their bugs are planted by importing them
from tests.sim.planted import control as _control  # noqa: F401
from tests.sim.planted import shared as _shared  # noqa: F401
from tests.sim.planted.bank import BANK
from tests.sim.scenario import Scenario, SimulationFailed

#: seeds a bug may survive; the healthy scheduler passes all of them
SEEDS = 1500


@pytest.mark.timeout(180)  # some are rare
@pytest.mark.parametrize("name", list(BANK))
def test_a_planted_bug_is_found(name: str) -> None:
    """A proof by running is worth what it finds; a bug that survives shows a kind of trouble that is not simulated."""
    with BANK[name]():
        for seed in range(SEEDS):
            try:
                Scenario(seed).run()
            except SimulationFailed:
                return
    pytest.fail(f"{name} survived {SEEDS} seeds")
