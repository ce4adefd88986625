"""The demos: on a real cluster they compute what one process computes, and say so if they don't."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from futurebroker.demo import flights, terms
from futurebroker.demo.common import table
from tests.integration.programs import FUTUREBROKER, run


@pytest.mark.timeout(120)
def test_the_flights_demo_agrees_with_pandas(tmp_path: Path) -> None:
    """The main job on real input, by the command of the README."""
    done = run([*FUTUREBROKER, "demo", "flights", "--executors", "2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "336,776      8,255" in done.stdout
    assert "checked against one process: all" in done.stdout


@pytest.mark.timeout(120)
def test_the_terms_demo_agrees_with_a_loop(tmp_path: Path) -> None:
    """The demo for who installed no extras."""
    done = run([*FUTUREBROKER, "demo", "terms", "--workers", "2", "--executors", "1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "asyncio" in done.stdout
    assert "checked against one process: all" in done.stdout


def test_a_wrong_sum_of_flights_is_found() -> None:
    """A check that can't fail checks nothing."""
    month = flights.read_month(2)
    right, wrong = flights.carrier_statistics(month), flights.carrier_statistics(month)
    wrong.loc["UA", "delay"] += 1.0
    found = flights.check(wrong, [], right, [])
    assert [mismatch.partition(":")[0] for mismatch in found.mismatches] == ["sum of delay", "delay of UA"]


def test_a_wrong_count_of_a_word_is_found() -> None:
    """As for the flights."""
    right = terms.count_terms("json/decoder.py")
    found = terms.check(right - Counter(scanner=1), {"json": []}, right, {"json": []})
    assert {mismatch.partition(":")[0] for mismatch in found.mismatches} == {"words", "count of scanner"}


def test_statistics_of_months_add_up_to_those_of_the_year() -> None:
    """What the tree reduction relies on: a carrier may be missing in a month."""
    months = [flights.read_month(month) for month in (1, 2)]
    parts = [flights.carrier_statistics(month) for month in months]
    together = flights.carrier_statistics(pd.concat(months))
    pd.testing.assert_frame_equal(flights.add_statistics(*parts), together)


def test_a_table_aligns_numbers_to_the_right() -> None:
    """What the user sees of it all."""
    assert table(("name", "n"), [["a", 1], ["bc", 1000]], ["all", 1001]) == (
        "name      n\n----  -----\na         1\nbc    1,000\n----  -----\nall   1,001"
    )
