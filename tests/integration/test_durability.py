"""A scheduler is killed at each step of writing, again and again, while graphs run: nothing is lost or done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.steps import STEPS, kill_at

#: times the scheduler is killed at each step; `python -m tests.chaos --step all --kills 200` is the soak
KILLS = 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 15 * KILLS)]


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path, step: str) -> None:
    """Each graph is accepted, run and gathered while schedulers die at the step; the ledger tells what ran."""
    report = kill_at(step, KILLS, tmp_path)
    assert report["passed"], report
    assert report["durable"], "no large durable result was among them"
