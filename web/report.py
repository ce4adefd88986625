"""One file that shows a run to who wasn't there: figures, tables and numbers, with nothing to fetch from anywhere.

`futurebroker.performance_report` and the site's export button both end here. What goes in is plain data; the file holds
Plotly's script, the style sheet and the data, and opens without a network.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from futurebroker.snapshot import Snapshot
from futurebroker.web import figures
from futurebroker.web.formats import count, duration, moment, rate, shorten, size
from futurebroker.web.views import cluster

#: what draws the figures of the file; its only script beside Plotly's
_SCRIPT = """
for (const [name, spec] of Object.entries(JSON.parse(document.getElementById("figures").textContent))) {
  const place = document.getElementById("plot-" + name);
  if (place) Plotly.newPlot(place, spec.data, spec.layout, {responsive: true, displaylogo: false});
}
"""
_STYLE = """
body { display: block; max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
.plotted { margin: 1rem 0; }
"""


def write(
    path: str | Path,
    snapshots: Sequence[Snapshot],
    *,
    title: str,
    began: float,
    stream: Mapping[str, Any] | None = None,
    source: str = "",
) -> None:
    """Write the report of ``snapshots`` to ``path``.

    Args:
        stream: columns of the figure of the same name, and what was said with them.
        source: code that was run, to be shown at the end.

    Raises:
        OSError: the file can't be written.
    """
    Path(path).write_text(render(snapshots, title=title, began=began, stream=stream, source=source), "utf-8")


def render(
    snapshots: Sequence[Snapshot],
    *,
    title: str,
    began: float,
    stream: Mapping[str, Any] | None = None,
    source: str = "",
) -> str:
    """The report as text; see `write`."""
    drawn = {name: figures.filled(name, columns) for name, columns in _columns(snapshots, stream).items()}
    for spec in drawn.values():
        spec["data"] = [trace for trace in spec["data"] if len(trace.get("x") or trace.get("ids") or [])]
    sections = [
        _summary(snapshots, began),
        *(_figure(name) for name in drawn),
        _types(snapshots[-1]) if snapshots else "",
        _workers(snapshots[-1]) if snapshots else "",
        f"<section><h2>Code</h2><pre>{html.escape(source)}</pre></section>" if source else "",
    ]
    static = resources.files("futurebroker.web").joinpath("static")
    style = static.joinpath("site.css").read_text("utf-8") + static.joinpath("plotly.css").read_text("utf-8") + _STYLE
    plotly = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")
    plotly = plotly.replace("</script", "<\\/script")
    data = json.dumps(drawn, separators=(",", ":"), default=str).replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing is fetched, whatever a task was called.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; img-src data: blob:\">"
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body><main>"
        f"<h1>{html.escape(title)}</h1>{''.join(sections)}</main>"
        f'<script type="application/json" id="figures">{data}</script>'
        f"<script>{plotly}</script><script>{_SCRIPT}</script></body></html>"
    )


def _columns(snapshots: Sequence[Snapshot], stream: Mapping[str, Any] | None) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: cluster.columns_over_time(name, snapshots) for name in ("throughput", "memory", "backlog", "lag")
    }
    if stream is not None:
        columns = {"stream": stream["columns"], **columns}
    if snapshots:
        last = snapshots[-1]
        columns["durations"] = cluster.duration_columns(last.kinds)
    return columns


def _summary(snapshots: Sequence[Snapshot], began: float) -> str:
    if not snapshots:
        return "<p>The scheduler never answered while this report was made.</p>"
    first, last = snapshots[0], snapshots[-1]
    ended = sum(kind.ended for kind in last.kinds) - sum(kind.ended for kind in first.kinds)
    seconds = max(last.time - began, 1e-6)
    facts = {
        "from": moment(began),
        "took": duration(seconds),
        "runs ended": count(ended),
        "mean rate": rate(ended / seconds),
        "failed": count(last.failed),
        "workers": count(len(last.workers)),
        "slots": count(sum(worker.slots for worker in last.workers)),
        "most memory": size(max(snapshot.memory["used"] for snapshot in snapshots)),
        "most results": size(max(snapshot.memory["managed"] for snapshot in snapshots)),
        "spilled": size(max(snapshot.memory["spilled"] for snapshot in snapshots)),
        "futurebroker": str(last.scheduler.get("version", "")),
        "made": moment(time.time()),
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items())
    return f'<p>{html.escape(last.health)}</p><dl class="facts">{rows}</dl>'


def _figure(name: str) -> str:
    title = {key: text.replace(" over the last ten minutes", "") for key, text in figures.TITLES[name].items()}
    return (
        f'<figure class="plotted"><figcaption><h2>{html.escape(title["title"])}</h2>'
        f'<p>{html.escape(title["about"])}</p></figcaption><div id="plot-{name}"></div></figure>'
    )


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f"<section><h2>{title}</h2>{table}</section>"


def _types(snapshot: Snapshot) -> str:
    rows = [
        (shorten(kind.name, 60), count(kind.ended), count(kind.errors), duration(kind.duration),
         duration((kind.duration or 0) * kind.ended), size(kind.nbytes))
        for kind in snapshot.kinds
    ]  # fmt: skip
    return _table("Types", ("type", "runs", "raised", "mean run", "all runs", "results kept"), rows)


def _workers(snapshot: Snapshot) -> str:
    rows = [
        (worker.name, worker.host, str(worker.slots), f"{worker.cpu:.0f} %", size(worker.memory), size(worker.managed),
         size(worker.spilled), str(worker.info.get("python") or ""))
        for worker in snapshot.workers
    ]  # fmt: skip
    return _table("Workers", ("worker", "host", "slots", "CPU", "memory", "results", "spilled", "Python"), rows)
