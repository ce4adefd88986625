"""Which function makes the data of which page, and what a page sends while it is open."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from flask import render_template

from futurebroker.web.registry import BY_NAME
from futurebroker.web.site import Missing, Page, Site
from futurebroker.web.views import cluster, happenings, shape, tasks

#: data of a page, by its name; arguments are the site, the query, and what identifies the thing that is shown
View = Callable[[Site, Mapping[str, str]], dict[str, Any]]

VIEWS: dict[str, View] = {
    "overview": cluster.overview,
    "tasks": tasks.tasks,
    "task": tasks.task,
    "types": cluster.types,
    "stream": shape.stream,
    "graph": shape.graph,
    "schedules": happenings.schedules,
    "datasets": happenings.datasets,
    "events": happenings.events,
    "profile": happenings.profile,
    "runs": happenings.runs,
    "run": happenings.run,
    "workers": cluster.workers,
    "memory": cluster.memory,
    "backlog": cluster.backlog,
    "system": cluster.system,
    "worker": lambda site, args: cluster.worker(site, args, _named(args, "name", "a worker's name")),
}

#: pages about one thing, which the navigation doesn't list
DETAILS = {
    "task": Page("task", "Task", "/task", "", every=2.0, under="tasks"),
    "run": Page(
        "run", "Run", "/run", "", every=10.0, figures=("throughput", "memory", "backlog"), live=False, under="runs"
    ),
    "worker": Page("worker", "Worker", "/worker", "", figures=("worker",), under="workers"),
}

#: drawings kept for others who look at the same page
KEPT = 64


def _named(args: Mapping[str, str], name: str, what: str) -> str:
    value = args.get(name, "")
    if not value:
        raise Missing(f"This page is about {what}: add ?{name}=… to its address.")
    return value


def page_called(name: str) -> Page:
    """The page, or that about one thing.

    Raises:
        Missing: there is none.
    """
    page = BY_NAME.get(name) or DETAILS.get(name)
    if page is None:
        raise Missing(f"There is no page called “{name[:100]}”.")
    return page


class Drawings:
    """Pages as they were drawn last, so that many who look at one page cost no more than one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], tuple[float, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def draw(self, site: Site, page: Page, args: Mapping[str, str], role: str) -> dict[str, Any]:
        """The page's HTML and the columns of its figures that aren't over time."""
        snapshot = site.collector.latest()
        number = snapshot.number if snapshot is not None else 0
        key = (page.name, role, tuple(sorted(args.items())))
        now = time.monotonic()
        with self._lock:
            known = self._kept.get(key)
            if known is not None and now - known[0] < page.every * 0.8 and (page.every > 1 or known[1]["id"] == number):
                return known[1]
        data = VIEWS[page.name](site, args)
        columns = data.pop("columns", {})
        drawing = {"id": number, "html": render_template(f"parts/{page.name}.html", data=data), "columns": columns}
        with self._lock:
            self._kept[key] = (now, drawing)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return drawing


def tick(site: Site, page: Page, args: Mapping[str, str], role: str, since: int, drawings: Drawings) -> dict[str, Any]:
    """What an open page needs to be up to date: HTML, new columns, and how the cluster does."""
    drawing = drawings.draw(site, page, args, role)
    # The number first: a point that comes in between is then sent twice, and not never.
    latest = site.collector.latest()
    added = cluster.series(site, page.figures, since) if page.live else {}
    return {
        "id": latest.number if latest is not None else 0,
        "html": drawing["html"],
        "figures": drawing["columns"],
        "append": added,
        "standing": site.standing(),
    }
