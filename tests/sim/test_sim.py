"""The simulator over many seeds: no law breaks, every future ends right and in time, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.scenario import HARSH_QUIET, Scenario

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 25
SEEDS = int(os.environ.get("FUTUREBROKER_TEST_SEEDS", "1000"))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_seed_ends_right(first: int) -> None:
    """A failure prints the command that replays it; nothing else about a run matters but its seed."""
    for seed in range(first, first + CHUNK):
        Scenario(seed).run()


@pytest.mark.parametrize("first", range(100_000, 100_000 + SEEDS // 4, CHUNK))
def test_everything_ends_soon_after_the_last_fault(first: int) -> None:
    """Faults stop at a random moment, early ones included; what they left must not need another fault to move."""
    for seed in range(first, first + CHUNK):
        Scenario(seed, quiet_within=HARSH_QUIET, harsh=True).run()


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    """Only then does a seed replay; sets of strings have another order in each process and must not show."""
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.sim", "--seed", "7", "--count", "6", "--digests"]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        digests.add(result.stdout)
    assert len(digests) == 1
    assert len(set(digests.pop().split())) > 6
