"""The diagrams and tables in the docs are those of the code."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_on_scheduling_is_drawn_from_the_code() -> None:
    """``python docs/draw.py`` writes it anew."""
    draw = runpy.run_path(str(DOCS / "draw.py"))
    page = (DOCS / "scheduling.md").read_text("utf-8")
    assert draw["drawn"](page) == page
    assert page.count(" --> ") == len(draw["TRANSITIONS"]) + 2
    assert "| processing | memory | " in page
    assert all(f"| {state.value} | " in draw["states"]() for state in draw["TaskState"])
