"""Graphs in layers: inputs above what needs them, circles without a hang."""

from __future__ import annotations

from itertools import pairwise

from futurebroker.web.layout import layered


def test_inputs_stand_above_what_needs_them() -> None:
    """The reader follows a computation downwards."""
    places = layered(["a", "b", "c", "d"], [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")])
    assert [places[node][1] for node in "abcd"] == [0.0, 1.0, 2.0, 3.0]


def test_siblings_stand_side_by_side_without_crossings() -> None:
    """Lines that cross for no reason hide those that cross for one."""
    places = layered(["x", "y", "p", "q"], [("x", "q"), ("y", "p")])
    crossing = (places["x"][0] - places["y"][0]) * (places["q"][0] - places["p"][0])
    assert crossing > 0


def test_circles_between_types_are_drawn() -> None:
    """A type may need results of its own type, or of one that needs it in turn."""
    places = layered(["f", "g"], [("f", "f"), ("f", "g"), ("g", "f")])
    assert set(places) == {"f", "g"}
    assert places["f"][1] < places["g"][1]


def test_a_long_chain_needs_no_stack() -> None:
    """A chain longer than Python's recursion limit is a common graph."""
    names = [str(number) for number in range(5000)]
    places = layered(names, list(pairwise(names)))
    assert places["4999"][1] == 4999.0


def test_what_has_no_line_stands_below_in_rows() -> None:
    """Hundreds of single tasks would press those with lines into a corner."""
    places = layered(["a", *map(str, range(50)), "b"], [("a", "b"), ("7", "7")])
    assert (places["a"][1], places["b"][1]) == (0.0, 1.0)
    rows = sorted({places[str(number)][1] for number in range(50)})
    assert rows[0] == 2.0
    assert len(rows) == 3
    assert len(set(places.values())) == 52
