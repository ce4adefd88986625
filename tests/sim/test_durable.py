"""Schedulers with a journal over many seeds: killed before, inside and after commits, with a database that fails."""

from __future__ import annotations

import os

import pytest

from tests.sim.scenario import HARSH_QUIET, Scenario

CHUNK = 25
SEEDS = int(os.environ.get("FUTUREBROKER_TEST_SEEDS", "1000")) // 5


@pytest.mark.parametrize("first", range(200_000, 200_000 + SEEDS, CHUNK))
def test_every_seed_ends_right(first: int) -> None:
    """Whatever a client was told is still so afterwards (I12), and everything ends as if nothing had happened."""
    for seed in range(first, first + CHUNK):
        Scenario(seed, quiet_within=HARSH_QUIET if seed % 2 else 12.0, harsh=seed % 2 == 1, durable=True).run()
