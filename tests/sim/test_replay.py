"""The facts of a run, replayed up to any moment, give the durable state that the scheduler had then (law I23)."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol.facts import AnyFact
from futurebroker.scheduler import checkpoint
from futurebroker.scheduler.commands import Event
from tests.sim.scenario import Scenario
from tests.unit.scheduler.projection import projection, replayed, written

SEEDS = 200
CHUNK = 10


def difference(replay: Any, live: Any, path: str = "") -> str:
    """Where two projections differ, for who reads the failure."""
    if isinstance(replay, dict) and isinstance(live, dict):
        names = [*live, *(name for name in replay if name not in live)]
        parts = [difference(replay.get(name), live.get(name), f"{path}/{name!r}") for name in names]
        return "\n".join(part for part in parts if part)
    return "" if replay == live else f"{path}: replayed {replay!r}, was {live!r}"


class Replaying:
    """Looks at a run's scheduler after each event, now and then by a replay."""

    def __init__(self, scenario: Scenario) -> None:
        self.scheduler = scenario.scheduler
        self.state = self.scheduler.machine.state
        self.facts: list[AnyFact] = []
        self.state.facts = []
        self.state.attempts = 1 << 40  # as of any scheduler with a journal: a replay counts its own from one
        self.looks = 0
        self._apply = self.scheduler.apply
        self._checkpoint: list[bytes] = []
        self._folded = 0
        scenario.scheduler.apply = self.apply  # type: ignore[method-assign]

    def apply(self, event: Event) -> None:
        self._apply(event)
        if self.state.facts:
            self.facts += self.state.facts
            self.state.facts = []
            self.compare()

    def compare(self) -> None:
        self.looks += 1
        live = projection(self.state)
        replay = projection(replayed(self.facts, self.state.policy))
        assert replay == live, difference(replay, live)
        folded = replayed(self.facts[self._folded :], self.state.policy, self._checkpoint)
        assert projection(folded) == live, difference(projection(folded), live)
        if self.looks % 5 == 0:
            self._checkpoint = list(checkpoint.dump(folded))
            self._folded = len(self.facts)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_a_replay_gives_the_state_that_was(first: int) -> None:
    """Whatever isn't a consequence of the facts would be lost with the process."""
    looks = 0
    for seed in range(first, first + CHUNK):
        scenario = Scenario(seed, restarts=False)
        replaying = Replaying(scenario)
        scenario.run()
        looks += replaying.looks
        assert written(replaying.facts) == replaying.facts
    assert looks > CHUNK * 4
