"""Rows of the table in docs/from-celery.md: each is declared by the test that shows it.

``python -m tests.integration.celery_rows`` writes the table into the page.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

_Test = TypeVar("_Test", bound=Callable[..., Any])

PAGE = Path(__file__).parents[2] / "docs" / "from-celery.md"
BEGIN, END = "<!-- the table below is written by tests.integration.celery_rows -->", "<!-- end of the table -->"
#: modules with tests that declare rows
MODULES = tuple(
    f"tests.integration.test_celery_{name}"
    for name in ("apps", "tasks", "following", "results", "canvas", "control", "rest", "processes", "beat")
)
#: titles of the parts of the table
PARTS = {
    "app": "Apps",
    "task": "Tasks",
    "result": "Results",
    "state": "States, exceptions, names",
    "canvas": "Canvas",
    "rest": "Control, schedules, signals, workers, testing",
    "semantics": "Semantics",
}


@dataclass(frozen=True)
class Row:
    """One line: something Celery has, and what it is here."""

    part: str
    what: str
    verdict: str  #: works, differs, not
    how: str  #: the difference, or why not
    test: str
    module: str


ROWS: list[Row] = []


def shows(part: str, what: str, verdict: str = "works", how: str = "") -> Callable[[_Test], _Test]:
    """Decorator of a test: it shows this row."""
    assert part in PARTS
    assert verdict in ("works", "differs", "not")
    assert bool(how) == (verdict != "works"), what

    def add(test: _Test) -> _Test:
        ROWS.append(Row(part, what, verdict, how, test.__name__, test.__module__))
        return test

    return add


def table() -> str:
    """All rows as Markdown."""
    for module in MODULES:
        importlib.import_module(module)
    lines = []
    for part, title in PARTS.items():
        lines += [f"### {title}", "", "| Celery | here | how it differs, or why not |", "|---|---|---|"]
        for row in sorted(ROWS, key=_place):
            if row.part == part:
                what, how = (text.replace("|", "\\|") for text in (row.what, row.how))
                lines.append(f"| {what} | {row.verdict} | {how} |")
        lines.append("")
    return "\n".join(lines)


def _place(row: Row) -> tuple[int, int]:
    """Semantics stand by their number, all else as the modules have it."""
    number = row.what.partition(".")[0]
    return (int(number) if number.isdecimal() else 0, MODULES.index(row.module))


def page_with_table() -> str:
    """The page as it should be."""
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    sys.modules["tests.integration.celery_rows"] = sys.modules["__main__"]
    PAGE.write_text(page_with_table())
