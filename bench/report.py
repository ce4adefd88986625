"""Writes what was measured: JSON with every sample, a plot, and a table for the terminal."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import psutil
from plotly.subplots import make_subplots

from bench import summary, workloads

#: What the figures depend on besides the peers themselves.
DISTRIBUTIONS = ("futurebroker", "numpy", "msgspec", "cloudpickle", "kombu", "amqp", "psutil")

COLUMNS = 3  #: plots side by side


def processor() -> str:
    """The processor's name where Linux tells it, else what the platform module knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine_info() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": psutil.cpu_count(),
        "usable_cpus": len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else None,
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def installed_versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def revision(root: Path) -> str | None:
    """The commit that was measured, None outside a clone."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def write_json(report: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")


def spell(metric: str, value: float) -> str:
    """A value with its unit, three significant digits."""
    if metric == "rate":
        return f"{value:,.0f}/s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def table(computed: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[str]:
    """The medians by workload, the best first, then the targets: one line each."""
    faster = {(ratio["workload"], ratio["versus"]): ratio["faster"] for ratio in computed["ratios_to_ours"]}
    for name in workloads.NAMES:
        rows = [row for row in computed["medians"] if row["workload"] == name]
        if not rows:
            continue
        rows.sort(key=lambda row: row["value"], reverse=rows[0]["metric"] == "rate")
        yield ""
        yield f"{workloads.TITLES[name]} ({name})"
        for row in rows:
            ratio = faster.get((name, row["peer"]))
            yield "  " + "  ".join(cells(row, labels[row["peer"]], ratio)).rstrip()
    yield ""
    yield "Targets (information, not a test)"
    for verdict in computed["targets"]:
        word = {True: "reached", False: "MISSED", None: "no data"}[verdict["passed"]]
        value = "" if verdict["value"] is None else f"{verdict['value']:,.3g}"
        yield f"  {verdict['workload']:<14}{word:<9}{value:>9}  {verdict['text']}"


def cells(row: Mapping[str, Any], label: str, ratio: float | None) -> list[str]:
    metric, figures = row["metric"], row["figures"]
    spread = f"{spell(metric, row['lowest'])} .. {spell(metric, row['highest'])}"
    notes = []
    if "p99" in figures:
        notes.append(f"p99 {spell('p99', figures['p99'])}")
    if "bytes_per_task" in figures:
        notes.append(f"{figures['bytes_per_task']:,.0f} bytes a task")
    if "cpu_us_per_task" in figures:
        notes.append(f"{figures['cpu_us_per_task']:,.0f} us CPU a task")
    elif "cpu_seconds" in figures:
        notes.append(f"{figures['cpu_seconds']:.2f} s CPU")
    if ratio is not None:
        notes.append(f"ours is {ratio:,.3g}x")
    return [f"{label:<22}", f"{row['size']:>11,}", f"{spell(metric, row['value']):>12}", f"{spread:>26}", *notes]


def write_plot(computed: Mapping[str, Any], labels: Mapping[str, str], colours: Mapping[str, str], path: Path) -> None:
    """One panel a workload, a bar a peer, the line from the lowest to the highest sample. Needs no network to open."""
    shown = [name for name in workloads.NAMES if any(row["workload"] == name for row in computed["medians"])]
    if not shown:
        return
    height = -(-len(shown) // COLUMNS)
    titles = [panel_title(name) for name in shown]
    figure = make_subplots(rows=height, cols=COLUMNS, subplot_titles=titles, horizontal_spacing=0.14)
    for index, name in enumerate(shown):
        rows = [row for row in computed["medians"] if row["workload"] == name]
        place = {"row": index // COLUMNS + 1, "col": index % COLUMNS + 1}
        figure.add_trace(panel(rows, labels, colours), **place)
        figure.update_xaxes(type="log", **place)
    title = "Medians; lines reach from the lowest to the highest sample"
    figure.update_layout(height=90 + 260 * height, template="plotly_white", title=title)
    figure.write_html(path, include_plotlyjs=True)


def panel_title(name: str) -> str:
    better = "tasks/s, more is better" if workloads.METRICS[name] == "rate" else "seconds, less is better"
    return f"{workloads.TITLES[name]}<br><sub>{better}</sub>"


def panel(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], colours: Mapping[str, str]) -> go.Bar:
    ordered = sorted(rows, key=lambda row: row["value"], reverse=rows[0]["metric"] != "rate")
    many_sizes = len({row["peer"] for row in ordered}) < len(ordered)
    return go.Bar(
        orientation="h",
        showlegend=False,
        x=[row["value"] for row in ordered],
        y=[f"{labels[row['peer']]} {row['size']:,}" if many_sizes else labels[row["peer"]] for row in ordered],
        marker_color=[colours[row["peer"]] for row in ordered],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [row["highest"] - row["value"] for row in ordered],
            "arrayminus": [row["value"] - row["lowest"] for row in ordered],
            "thickness": 1,
        },
        hovertext=[f"size {row['size']:,}, {row['samples']} samples" for row in ordered],
    )


def build(
    *,
    settings: Mapping[str, Any],
    peers: Mapping[str, Any],
    unavailable: Mapping[str, str],
    samples: Sequence[dict[str, Any]],
    root: Path,
) -> dict[str, Any]:
    """The whole report, ready for JSON."""
    derived = [summary.with_derived(sample) for sample in samples]
    return {
        "format": 1,
        "revision": revision(root),
        "settings": dict(settings),
        "machine": machine_info(),
        "versions": installed_versions(),
        "peers": dict(peers),
        "unavailable": dict(unavailable),
        **summary.summarize(derived),
        "samples": derived,
    }
