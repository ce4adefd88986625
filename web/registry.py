"""The pages of the site, in the order of the navigation."""

from __future__ import annotations

from futurebroker.web.site import Page

PAGES = (
    Page("overview", "Overview", "/", "o", figures=("throughput", "memory", "backlog")),
    Page("tasks", "Tasks", "/tasks", "t", every=5.0),
    Page("types", "Types", "/types", "y", figures=("durations",)),
    Page("stream", "Stream", "/stream", "s", every=3.0, figures=("stream",)),
    Page("graph", "Graph", "/graph", "g", every=3.0, figures=("graph",)),
    Page("workers", "Workers", "/workers", "w", figures=("cpu",)),
    Page("memory", "Memory", "/memory", "m", figures=("memory_by_worker", "memory_by_type")),
    Page("backlog", "Backlog", "/backlog", "b", figures=("backlog", "backlog_by_worker")),
    Page("schedules", "Schedules", "/schedules", "c", every=2.0),
    Page("datasets", "Datasets", "/datasets", "d", every=5.0),
    Page("events", "Events", "/events", "e", every=5.0),
    Page("profile", "Profile", "/profile", "p", every=5.0, figures=("flame",)),
    Page("runs", "Runs", "/runs", "r", every=5.0),
    Page("system", "System", "/system", "x", figures=("lag",)),
)

BY_NAME = {page.name: page for page in PAGES}
