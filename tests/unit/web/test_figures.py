"""Figures are made once, without data; pages and reports fill in columns."""

from __future__ import annotations

import pytest

from futurebroker.web import figures
from futurebroker.web.palette import COLOURS
from futurebroker.web.registry import PAGES


def test_every_figure_of_a_page_exists_and_has_a_title() -> None:
    """A page names its figures; a name without a maker would be an empty frame."""
    named = {name for page in PAGES for name in page.figures}
    assert named <= set(figures.MAKERS)
    assert set(figures.MAKERS) == set(figures.TITLES)


@pytest.mark.parametrize("name", sorted(figures.MAKERS))
def test_a_figure_binds_every_trace_to_columns(name: str) -> None:
    """Ticks send columns only: a trace without columns would stay empty for ever."""
    made = figures.spec(name)
    assert "template" not in made["layout"]
    for trace in made["data"]:
        assert trace["meta"]["bind"]
        assert not trace["type"].endswith("gl")  # such traces need eval, which the policy forbids
        for colour in trace["meta"]["paint"].values():
            assert colour in COLOURS or colour.startswith("series")


def test_filling_in_columns_leaves_the_figure_as_it_was() -> None:
    """One figure serves all pages of a process."""
    filled = figures.filled("throughput", {"time": [1, 2], "rate": [3, 4]})
    assert (filled["data"][0]["x"], filled["data"][0]["y"]) == ([1, 2], [3, 4])
    assert figures.spec("throughput")["data"][0]["x"] == []


def test_states_differ_by_pattern_and_not_by_colour_alone() -> None:
    """One man in twelve can't tell red from green."""
    stacked = ("queued", "waiting", "no_worker")
    patterns = {COLOURS[name][2] for name in stacked}
    assert len(patterns) == len(stacked)


def test_plotlys_own_style_is_kept_out() -> None:
    """Its script inserts a style that our policy forbids, unless an element with this id is there."""
    assert figures.style_marks()
