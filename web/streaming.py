"""Lays out what ran when: lanes, colours and as many marks as a screen can show, however many tasks there were (pure).

Runs of one lane that are thinner than two pixels are drawn as one mark that says how many they are, in the colour that
most of the time went to; so the answer is bounded by lanes times pixels.
"""

from __future__ import annotations

import math
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
#: pixels under which colours next to each other can't be told
THIN = 2
#: seconds by which runs on one lane may seem to overlap
OVERLAP = 0.002
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
    """Gives runs lanes: each executor one, and more where it runs several tasks at a time."""

    def __init__(self) -> None:
        self._free: dict[str, list[float]] = defaultdict(list)

    def lane(self, executor: str, start: float, end: float) -> str:
        """The lane of a run; runs come in the order of their ends."""
        lanes = self._free[executor]
        # What is measured in two processes may overlap a little.
        latest = start + max(OVERLAP, (end - start) / 10)
        best = next((number for number, last in enumerate(lanes) if last <= latest), len(lanes))
        if best == len(lanes):
            lanes.append(end)
        lanes[best] = end
        return f"{executor}.{best + 1}" if best else executor


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
    grain = max(THIN * (until - since) / pixels, 1e-6)
    marks = _joined(seen, shown, named, rest, since, grain)
    while sum(map(len, marks.values())) > MARKS:
        grain *= 2
        marks = _joined(seen, shown, named, rest, since, grain)
    layout = {"xaxis.range": [_iso(since), _iso(until)], "yaxis.categoryarray": lanes[:LANES]}
    columns: dict[str, Any] = {"layout": layout}
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


@dataclass(slots=True)
class _Mark:
    """What is drawn: one run, or several thin ones of a lane."""

    lane: str
    start: float
    end: float
    count: int
    run: Run  #: the first
    mixed: bool = False  #: whether some are of another colour

    def add(self, other: _Mark) -> None:
        """Let this stand for ``other`` as well."""
        self.start, self.end = min(self.start, other.start), max(self.end, other.end)
        self.count += other.count
        self.mixed |= other.mixed


def _joined(
    runs: list[Run], shown: set[str], named: dict[str, str], rest: str, since: float, grain: float
) -> dict[str, list[_Mark]]:
    """Marks by column. What is thinner than ``grain`` has the colour that most of the time around it went to."""
    marks: dict[str, list[_Mark]] = defaultdict(list)
    grains: dict[tuple[str, int], dict[str, tuple[float, _Mark]]] = defaultdict(dict)
    for run in runs:
        if run.lane not in shown:
            continue
        column = "failed" if run.failed else named.get(run.type, rest)
        mark = _Mark(run.lane, run.start, run.end, run.count, run)
        seconds = run.end - run.start
        if seconds >= grain:
            marks[column].append(mark)
            continue
        around = grains[run.lane, math.floor((run.start - since) / grain)]
        if column in around:
            spent, former = around[column]
            former.add(mark)
            around[column] = (spent + seconds, former)
        else:
            around[column] = (seconds, mark)
    last: dict[str, tuple[int, str, _Mark]] = {}
    for lane, place in sorted(grains):
        around = grains[lane, place]
        # a failure is seen however short it was
        column = "failed" if "failed" in around else max(around, key=lambda name: around[name][0])
        mark = around.pop(column)[1]
        for _, other in around.values():
            mark.add(other)
            mark.mixed = True
        before = last.get(lane)
        # Not across a run that is drawn by itself.
        if before is not None and before[:2] == (place - 1, column) and mark.start - before[2].end < grain / 2:
            mark, added = before[2], mark
            mark.add(added)
        else:
            marks[column].append(mark)
        last[lane] = (place, column, mark)
    return marks


def _column(marks: list[_Mark], name: str) -> dict[str, Any]:
    texts = []
    for mark in marks:
        took = duration(mark.end - mark.start)
        if mark.count == 1:
            texts.append(f"{shorten(mark.run.key, 60)}: {took}{' failed' if mark.run.failed else ''}")
        elif mark.mixed:
            texts.append(f"{mark.count:,} runs in {took}, {'some' if mark.run.failed else 'mostly'} {name}")
        else:
            texts.append(f"{mark.count:,} runs in {took}, all {name}")
    return {
        "name": name,
        "lane": [mark.lane for mark in marks],
        "start": [round(1000 * mark.start, 3) for mark in marks],
        "length": [round(1000 * max(mark.end - mark.start, 1e-6), 3) for mark in marks],
        "text": [_plain(text) for text in texts],
        "links": [mark.run.key if mark.count == 1 else "" for mark in marks],
    }


def _plain(text: str) -> str:
    """Plotly reads some HTML in its texts; what users named shall not be it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _iso(moment: float) -> float:
    return round(1000 * moment, 1)


def _natural(lane: str) -> tuple[str, list[int]]:
    worker, _, number = lane.rpartition(" · ")
    return worker, [int(part) for part in number.split(".") if part.isdecimal()]
