"""Lays out what ran when: lanes, colours and as many marks as a screen can show, however many tasks there were (pure).

Marks of one lane and colour that would overlap on the screen, or be thinner than a pixel, are joined into one that says
how many they are; so the answer is bounded by lanes times pixels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from futurebroker.web.formats import duration, shorten
from futurebroker.web.palette import SERIES_LIGHT

#: marks in one answer, at the most
MARKS = 4000
#: pixels that a figure is taken to be wide
PIXELS = 1200
#: lanes drawn
LANES = 64


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task; times in seconds since 1970."""

    start: float
    end: float
    type: str
    lane: str  #: worker and executor
    failed: bool
    key: str
    count: int = 1  #: how many runs it stands for


class Packing:
    """Gives runs of workers lanes, when nothing tells which executor had them: as few as do not overlap."""

    def __init__(self) -> None:
        self._free: dict[str, list[float]] = defaultdict(list)

    def lane(self, worker: str, start: float, end: float) -> str:
        """The lane of a run; runs come in the order of their ends."""
        lanes = self._free[worker]
        best = -1
        for number, last in enumerate(lanes):
            if last <= start + 1e-3 and (best < 0 or last > lanes[best]):
                best = number
        if best < 0:
            lanes.append(end)
            best = len(lanes) - 1
        lanes[best] = end
        return f"{worker} · {best + 1}"


def lay_out(runs: Iterable[Run], since: float, until: float, *, pixels: int = PIXELS) -> dict[str, Any]:
    """Columns of the figure ``stream`` for the window, and what the page says of it."""
    seen = [run for run in runs if run.end >= since and run.start <= until]
    lanes = sorted({run.lane for run in seen}, key=_natural)
    shown = set(lanes[:LANES])
    spent: Counter[str] = Counter()
    for run in seen:
        spent[run.type] += max(run.end - run.start, 1e-6)  # type: ignore[assignment]  # a Counter of floats
    named = {name: f"t{place}" for place, (name, _) in enumerate(spent.most_common(len(SERIES_LIGHT)))}
    rest = f"t{len(SERIES_LIGHT)}"
    grain = max((until - since) / pixels, 1e-6)
    marks = _joined(seen, shown, named, rest, grain)
    while sum(map(len, marks.values())) > MARKS:
        grain *= 2
        marks = _joined(seen, shown, named, rest, grain)
    columns: dict[str, Any] = {"layout": {"xaxis.range": [_iso(since), _iso(until)]}}
    titles = {column: name for name, column in named.items()} | {rest: "other types", "failed": "failed"}
    for column in [*(f"t{place}" for place in range(len(SERIES_LIGHT) + 1)), "failed"]:
        columns[column] = _column(marks.get(column, []), shorten(titles.get(column, ""), 32))
    return {
        "columns": columns,
        "runs": sum(run.count for run in seen),
        "lanes": len(lanes),
        "lanes_hidden": max(0, len(lanes) - LANES),
        "joined": sum(map(len, marks.values())) < sum(run.count for run in seen),
        "types": [{"name": name, "seconds": seconds} for name, seconds in spent.most_common(len(SERIES_LIGHT))],
    }


def _joined(
    runs: list[Run], shown: set[str], named: dict[str, str], rest: str, grain: float
) -> dict[str, list[tuple[str, float, float, int, Run]]]:
    """Marks by column: lane, start, end, how many runs, and the first of them."""
    marks: dict[str, list[tuple[str, float, float, int, Run]]] = defaultdict(list)
    last: dict[tuple[str, str], int] = {}
    for run in sorted(runs, key=lambda run: run.start):
        if run.lane not in shown:
            continue
        column = "failed" if run.failed else named.get(run.type, rest)
        place = last.get((column, run.lane))
        row = marks[column]
        if place is not None:
            lane, start, end, count, first = row[place]
            small = run.end - run.start < grain or end - start < grain
            if run.start < end or (small and run.start - end < grain):
                row[place] = (lane, start, max(end, run.end), count + run.count, first)
                continue
        last[column, run.lane] = len(row)
        row.append((run.lane, run.start, run.end, run.count, run))
    return marks


def _column(marks: list[tuple[str, float, float, int, Run]], name: str) -> dict[str, Any]:
    texts = []
    for _, start, end, count, run in marks:
        if count == 1:
            texts.append(f"{shorten(run.key, 60)}: {duration(end - start)}{' failed' if run.failed else ''}")
        else:
            texts.append(f"{count:,} runs of {name} in {duration(end - start)}")
    return {
        "name": name,
        "lane": [mark[0] for mark in marks],
        "start": [round(1000 * mark[1], 3) for mark in marks],
        "length": [round(1000 * max(mark[2] - mark[1], 1e-6), 3) for mark in marks],
        "text": [_plain(text) for text in texts],
        "links": [mark[4].key if mark[3] == 1 else "" for mark in marks],
    }


def _plain(text: str) -> str:
    """Plotly reads some HTML in its texts; what users named shall not be it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _iso(moment: float) -> float:
    return round(1000 * moment, 1)


def _natural(lane: str) -> tuple[str, int]:
    worker, _, number = lane.rpartition(" · ")
    return worker, int(number) if number.isdecimal() else 0
