"""Pages of what happened, what is kept and what comes again: events, runs, datasets, schedules and the profile."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Mapping
from typing import Any

from futurebroker.web import timing
from futurebroker.web.collector import UnansweredError
from futurebroker.web.queries import HistoryAwayError
from futurebroker.web.site import Missing, Site

#: rows of a page
ROWS = 200
#: rows in a row of one kind that are told as one
ALIKE = 4
#: share of all samples from which a call is listed
HOT = 0.005
#: calls that a flame graph draws, the widest
CALLS = 1500
#: share of all samples below which a call is not drawn
THINNEST = 0.0005


def events(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """What happened to the cluster, newest first: from the history, from workers, and what operators did."""
    trouble = ""
    rows: list[dict[str, Any]] = []
    snapshot = site.collector.latest()
    for worker in snapshot.workers if snapshot is not None else ():
        for event in worker.events:
            rows.append({"at": event["at"], "kind": event["kind"], "about": worker.name, "text": event["text"]})
    rows += site.collector.seen
    kept = site.history.available
    rows += [
        {
            "at": action.time,
            "kind": f"operator_{action.what}",
            "about": f"{action.role} at {action.address}",
            "text": action.about,
        }
        for action in ([] if kept else list(site.actions))
    ]
    try:
        rows += site.history.events(ROWS)
    except HistoryAwayError as error:
        trouble = f"The database can't be read: {error}"
    kind = args.get("kind", "")
    kinds = sorted({row["kind"] for row in rows})
    shown = sorted((row for row in rows if not kind or row["kind"] == kind), key=lambda row: -row["at"])
    return {"rows": together(shown[:ROWS]), "total": len(shown), "kinds": kinds, "kind": kind, "trouble": trouble,
            "kept": site.history.available}  # fmt: skip


def together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of which many in a row are of one kind as one, the newest, with their ``count`` and the ``first`` moment."""
    told: list[dict[str, Any]] = []
    for _, alike in itertools.groupby(rows, key=lambda row: row["kind"]):
        group = list(alike)
        if len(group) < ALIKE:
            told += [{**row, "count": 1, "first": row["at"]} for row in group]
            continue
        about = sorted({row["about"] for row in group if row["about"]})
        told.append(
            {**group[0], "count": len(group), "first": group[-1]["at"],
             "about": about[0] if len(about) == 1 else f"{len(about)} of them" if about else ""}
        )  # fmt: skip
    return told


def runs(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """Past runs of this cluster's schedulers, newest first."""
    trouble = ""
    rows: list[dict[str, Any]] = []
    try:
        rows = site.history.runs(ROWS)
    except HistoryAwayError as error:
        trouble = f"The database can't be read: {error}"
    return {"rows": rows, "trouble": trouble, "kept": site.history.available}


def run(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """One past run: its types and clients, its pace, memory and backlog over time; ``id`` is its number."""
    number = args.get("id", "")
    try:
        found = site.history.run(int(number)) if number.isdecimal() and len(number) < 16 else None
    except HistoryAwayError as error:
        return {"run": None, "trouble": f"The database can't be read: {error}"}
    if found is None:
        raise Missing(f"No run {number[:50]!r} is in the history.")
    columns = {name: found.pop(name) for name in ("throughput", "memory", "backlog")}
    return {"run": found, "trouble": "", "columns": columns}


def datasets(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """Published datasets: what there is, how large, by whom; as the database has them while nobody answers."""
    rows: list[dict[str, Any]] = []
    try:
        rows = site.collector.ask("datasets")
    except UnansweredError as error:
        trouble = str(error)
        with contextlib.suppress(HistoryAwayError):
            rows = site.published.datasets() if site.published is not None else []
        return {"rows": rows, "trouble": f"{trouble}; the database has these" if rows else trouble}
    return {"rows": rows, "trouble": ""}


def schedules(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """What is run again and again: when, when last and when next; what is due next stands first."""
    try:
        rows: list[dict[str, Any]] = site.collector.ask("schedules")
    except UnansweredError as error:
        return {"rows": [], "trouble": str(error)}
    rows.sort(key=lambda row: (row["next"] is None, row["next"] or 0.0, row["name"]))
    return {"rows": [{**row, "words": timing.in_words(row.pop("data", None))} for row in rows], "trouble": ""}


def profile(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """Where Python's time goes in tasks, as a flame graph; ``type``, ``worker`` and ``last`` seconds narrow it."""
    kind, worker = args.get("type") or None, args.get("worker") or None
    about: dict[str, Any] = {"key": kind, "workers": [worker] if worker else None}
    if (last := args.get("last", "")).isdecimal() and int(last):
        about["start"] = time.time() - int(last)
    page: dict[str, Any] = {"samples": 0, "type": kind, "worker": worker, "last": last, "trouble": "", "hot": []}
    try:
        tree = site.collector.ask("profile", about)
    except UnansweredError as error:
        page["trouble"] = str(error)
        return page
    columns, hot = flame(tree)
    return {**page, "samples": tree["count"], "hot": hot, "columns": {"flame": columns}}


def flame(tree: Mapping[str, Any]) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """Columns of the figure ``flame``, and the calls in which most samples ended, widest first."""
    total = tree["count"] or 1
    columns: dict[str, list[Any]] = {"ids": ["0"], "labels": ["all"], "parents": [""], "values": [tree["count"]],
                                     "text": [f"{tree['count']:,} samples"]}  # fmt: skip
    own: dict[tuple[str, str, int], int] = {}
    todo = [("0", child) for child in tree["children"]]
    drawn = 1
    while todo:
        parent, node = todo.pop()
        inner = sum(child["count"] for child in node["children"])
        place = (node["name"], node["file"], node["line"])
        own[place] = own.get(place, 0) + max(0, node["count"] - inner)
        number = ""
        if parent and drawn < CALLS and node["count"] / total >= THINNEST:
            number = str(drawn)
            drawn += 1
            where = f"{node['file']}:{node['line']}" if node["file"] else "type of task"
            columns["ids"].append(number)
            columns["labels"].append(_plain(node["name"]))
            columns["parents"].append(parent)
            columns["values"].append(node["count"])
            columns["text"].append(_plain(f"{node['name']} – {where}: {node['count']:,} samples"))
        todo += [(number, child) for child in node["children"]]
    hottest = sorted(own.items(), key=lambda item: -item[1])[:25]
    hot = [
        {"name": name, "place": f"{file}:{line}" if file else "", "share": count / total, "samples": count}
        for (name, file, line), count in hottest
        if count >= total * HOT
    ]
    return columns, hot


def _plain(text: str) -> str:
    """Plotly reads some HTML in its texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
