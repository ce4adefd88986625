"""The matrix of docs/links.md is that of the conformance suite."""

from __future__ import annotations

from tests.services.links import LINKS
from tests.services.matrix import BEGIN, END, PAGE, renewed, table


def test_the_matrix_in_the_docs_is_current() -> None:
    """Renew it with: python -m tests.services.matrix."""
    page = PAGE.read_text("utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert renewed(page) == page


def test_every_row_of_the_matrix_runs_somewhere_or_says_why_not() -> None:
    """An empty cell would look like an oversight."""
    rows = [line for line in table().splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 12
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert len(cells) == len(LINKS)
        assert "yes" in cells
        assert all(cells)
