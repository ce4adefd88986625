"""What both demos need: a tree reduction, a table, and the record of what was checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from futurebroker.client.client import Client
from futurebroker.client.futures import Future


@dataclass(slots=True)
class Check:
    """Compares what the cluster computed with what one process computes from the same input."""

    passed: int = 0
    mismatches: list[str] = field(default_factory=list)

    def same(self, what: str, cluster: Any, single: Any) -> None:
        """Both must be equal."""
        self.holds(f"{what}: the cluster says {cluster!r}, one process {single!r}", bool(cluster == single))

    def holds(self, mismatch: str, is_true: bool) -> None:
        """``is_true`` must be; if not, ``mismatch`` says what is wrong."""
        if is_true:
            self.passed += 1
        else:
            self.mismatches.append(mismatch)


def tree_reduce(
    client: Client, merge: Callable[..., Any], futures: Sequence[Future[Any]], fan_in: int = 4
) -> Future[Any]:
    """One future of ``merge`` over all of ``futures``, by levels of ``fan_in`` at a time, in their order."""
    level = list(futures)
    while len(level) > 1:
        level = [client.submit(merge, *level[start : start + fan_in]) for start in range(0, len(level), fan_in)]
    return level[0]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], total: Sequence[object] | None = None) -> str:
    """Columns of equal width: numbers to the right, texts to the left, ``total`` below a line."""
    shown = [[_show(value) for value in row] for row in [*rows, *([total] if total is not None else [])]]
    widths = [max(len(cell) for cell in column) for column in zip(headings, *shown)]
    right = [not isinstance(value, str) for value in rows[0]]
    lines = [[*headings], ["-" * width for width in widths], *shown]
    if total is not None:
        lines.insert(len(lines) - 1, lines[1])
    return "\n".join(_align(line, widths, right) for line in lines)


def _align(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = [cell.rjust(w) if numeric else cell.ljust(w) for cell, w, numeric in zip(cells, widths, right)]
    return "  ".join(aligned).rstrip()


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
