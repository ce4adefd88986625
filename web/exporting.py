"""The export button: what the site has seen of the cluster as one file to keep or to send."""

from __future__ import annotations

import time

from flask import Blueprint, Response

from futurebroker.web import report as reports
from futurebroker.web.site import Site
from futurebroker.web.streaming import lay_out
from futurebroker.web.views import shape


def register(blueprint: Blueprint) -> None:
    """Add the export to ``blueprint``."""
    blueprint.add_url_rule("/report.html", "report", report)


def report() -> Response:
    """A report of the snapshots in the ring, and of the runs in the same time."""
    site = Site.current()
    site.snapshot()
    snapshots = site.collector.since(0)
    began = snapshots[0].time if snapshots else time.time()
    runs, _, _ = shape.runs_between(site, began, time.time())
    text = reports.render(
        snapshots,
        title=f"futurebroker, cluster {site.cluster}",
        began=began,
        stream=lay_out(runs, began, time.time()),
    )
    response = Response(text, mimetype="text/html")
    name = time.strftime("futurebroker-%Y%m%d-%H%M%S.html", time.gmtime())
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    # The file has scripts of its own; it is for downloading, and none of the site's pages.
    response.headers["Content-Security-Policy"] = "sandbox"
    return response
