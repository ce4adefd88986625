"""Writes the table of docs/links.md that shows which test runs at which link: ``python -m tests.services.matrix``."""

from __future__ import annotations

import re
from pathlib import Path

# registers its tests
import tests.services.test_link_conformance  # noqa: F401
from tests.services.links import LINKS, ROWS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "links.md"
BEGIN = "<!-- made by `python -m tests.services.matrix` from tests/services/test_link_conformance.py -->"
END = "<!-- end of what is made -->"


def table() -> str:
    """The rows in the order of the file; a cell without a test has the number of its reason."""
    reasons: list[str] = []
    lines = ["| test | " + " | ".join(LINKS.values()) + " |", "|---" * (len(LINKS) + 1) + "|"]
    for row in ROWS.values():
        if row.without and row.without not in reasons:
            reasons.append(row.without)
        absent = f"({reasons.index(row.without) + 1})" if row.without else ""
        lines.append(f"| {row.title} | " + " | ".join("yes" if name in row.places else absent for name in LINKS) + " |")
    lines.append("")
    lines += [f"({number}) Not run there: {reason}." for number, reason in enumerate(reasons, 1)]
    return "\n".join(lines)


def renewed(page: str) -> str:
    """The page with the table as it is now."""
    made = f"{BEGIN}\n\n{table()}\n\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: made, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
