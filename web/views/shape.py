"""Pages that draw the work itself: what ran when, and what needs what."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from futurebroker.states import TaskState
from futurebroker.web.collector import UnansweredError
from futurebroker.web.formats import shorten
from futurebroker.web.layout import layered
from futurebroker.web.queries import HistoryAwayError
from futurebroker.web.site import Site
from futurebroker.web.streaming import Packing, Run, lay_out

#: seconds shown when nothing else is asked for
WINDOW = 60.0
WINDOWS = (("1 min", 60), ("10 min", 600), ("1 h", 3600), ("1 day", 86400))
#: runs kept for a cluster without a history
KEPT = 100_000


class LiveRuns:
    """The runs that ended while somebody looked, as the scheduler tells them; for clusters without a history."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: deque[Run] = deque(maxlen=KEPT)
        self._packing = Packing()
        self._last = 0
        self.missed = 0

    def fetch(self, site: Site) -> list[Run]:
        """All of them, after a question for the newest."""
        with self._lock:
            for _ in range(8):  # answers are bounded; a burst takes several
                answer = site.collector.ask("recent", {"since": self._last})
                ahead = time.time() - answer["now"]
                if answer["last"] < self._last:
                    self._runs.clear()  # another scheduler
                self.missed += answer["missed"]
                rows = zip(
                    *(answer[name] for name in ("end", "duration", "type", "worker", "executor", "failed", "key")),
                    strict=True,
                )
                for end, took, name, worker, executor, failed, key in rows:
                    start, stop = ahead + end - took, ahead + end
                    lane = self._packing.lane(f"{worker} · {executor}", start, stop)
                    self._runs.append(Run(start, stop, name, lane, failed, key))
                before, self._last = self._last, answer["last"]
                if self._last - before < 4_000:
                    break
            return list(self._runs)


_LIVE: WeakKeyDictionary[Site, LiveRuns] = WeakKeyDictionary()


def stream(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """What ran when on which executor, in the window from ``from`` to ``to``, or of the last ``last`` seconds."""
    until = _number(args.get("to")) or time.time()
    last = _number(args.get("last")) or WINDOW
    since = _number(args.get("from")) or until - last
    since, until = min(since, until - 1e-3), max(since, until)
    page: dict[str, Any] = {
        "since": since, "until": until, "follows": "to" not in args, "last": last, "trouble": "", "source": "database",
        "windows": [{"name": name, "last": at, "at": "to" not in args and at == last} for name, at in WINDOWS],
    }  # fmt: skip
    runs, page["trouble"], missed = runs_between(site, since, until)
    if not site.history.available:
        page["source"], page["missed"] = "scheduler", missed
    drawn = lay_out(runs, since, until)
    columns = drawn.pop("columns")
    return {**page, **drawn, "columns": {"stream": columns}}


def runs_between(site: Site, since: float, until: float) -> tuple[list[Run], str, int]:
    """Runs in a window, why they can't be read, and how many are known to be missing."""
    if site.history.available:
        try:
            return site.history.runs_between(since, until), "", 0
        except HistoryAwayError as error:
            return [], f"The database can't be read: {error}", 0
    live = _LIVE.setdefault(site, LiveRuns())
    try:
        return live.fetch(site), "", live.missed
    except UnansweredError as error:
        return [], f"The scheduler can't be asked: {error}", live.missed


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 < number < 1e11 else None


# -- the graph -----------------------------------------------------------------------------------------------------

_SHOWN = {
    TaskState.MEMORY.value: "done", TaskState.RELEASED.value: "done", TaskState.PROCESSING.value: "processing",
    TaskState.QUEUED.value: "queued", TaskState.WAITING.value: "waiting", TaskState.NO_WORKER.value: "no_worker",
    TaskState.ERRED.value: "failed",
}  # fmt: skip
#: which state of a kind's tasks colours its node: the first that any of them has
_FIRST = ("failed", "no_worker", "processing", "queued", "waiting", "done")


def graph(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """What needs what: by type, or with ``by=task`` task by task up to a number that the page states."""
    by_task = args.get("by") == "task"
    kind = args.get("type") or None
    page: dict[str, Any] = {"by": "task" if by_task else "type", "type": kind, "trouble": "", "nodes": [], "edges": []}
    try:
        answer = site.collector.ask("graph", {"by": page["by"], "type": kind})
    except UnansweredError as error:
        page["trouble"] = f"The scheduler can't be asked: {error}"
        return page
    nodes = answer["nodes"]
    if by_task:
        names = [node["key"] for node in nodes]
        edges = [(source, target) for source, target in answer["edges"]]
    else:
        names = [node["type"] for node in nodes]
        edges = [(source, target) for source, target, _ in answer["edges"]]
    places = layered(names, edges)
    columns: dict[str, Any] = {"edges": _lines(places, edges)}
    for state in _FIRST:
        columns[state] = {"x": [], "y": [], "label": [], "text": [], "size": [], "links": []}
    largest = max((_count(node) for node in nodes), default=1)
    for name, node in zip(names, nodes, strict=True):
        state = _SHOWN.get(node.get("state", ""), "") or _kind_state(node)
        column = columns[state]
        x, y = places[name]
        column["x"].append(round(x, 4))
        column["y"].append(y)
        # Words under more than a few dozen nodes would be a grey carpet.
        column["label"].append(_plain(shorten(name, 22)) if len(nodes) <= 60 else "")
        column["text"].append(_plain(_about(name, node)))
        column["size"].append(10 if by_task else round(12 + 26 * math.sqrt(_count(node) / largest), 1))
        column["links"].append(name)
    return {
        **page, "nodes": nodes, "edges": answer["edges"], "known": answer["known"],
        "hidden": max(0, answer["known"] - len(nodes)) if by_task else max(0, answer["known"] - answer["scanned"]),
        "columns": {"graph": columns},
    }  # fmt: skip


def _lines(places: Mapping[str, tuple[float, float]], edges: list[tuple[str, str]]) -> dict[str, list[float | None]]:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for source, target in edges:
        if source in places and target in places and source != target:
            (x0, y0), (x1, y1) = places[source], places[target]
            xs += [round(x0, 4), round(x1, 4), None]
            ys += [y0, y1, None]
    return {"x": xs, "y": ys}


def _count(node: Mapping[str, Any]) -> int:
    return int(max(1, node.get("ended", 0), sum(node.get("states", {}).values())))


def _kind_state(node: Mapping[str, Any]) -> str:
    there = {_SHOWN.get(state, "done") for state in node.get("states", {})}
    return next((state for state in _FIRST if state in there), "done")


def _about(name: str, node: Mapping[str, Any]) -> str:
    if "state" in node:
        return f"{shorten(name, 80)}: {node['state'].replace('_', ' ')}"
    counts = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in node["states"].items())
    return f"{shorten(name, 60)}: {counts or 'nothing now'}; {node['ended']:,} ended"


def _plain(text: str) -> str:
    """Plotly reads some HTML in its texts; what users named shall not be it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
