"""The figures of the pages: traces and layout of each, made once with Plotly's own objects, without any data.

Each trace says in ``meta.bind`` which column belongs to which of its attributes, and in ``meta.paint`` which colour of
the palette. A page gets this once, and afterwards only columns; the report fills the columns in here.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any

import plotly.graph_objects as go

from futurebroker.web.palette import REST, SERIES_LIGHT, colour, pattern

PLOTLY_VERSION = metadata.version("plotly")

#: name -> (title, what it shows in a sentence, name of its table's columns)
TITLES: dict[str, dict[str, str]] = {
    name: {"name": name, "title": title, "about": about}
    for name, title, about in (
        ("throughput", "Throughput", "Tasks ended a second over the last ten minutes."),
        ("memory", "Memory", "Bytes of all workers over the last ten minutes: results, everything else, and spilled."),
        ("backlog", "Backlog", "Unfinished tasks over the last ten minutes by what they wait for."),
        ("durations", "Where the time goes", "Seconds of work by type: all runs so far."),
        ("cpu", "Load", "CPU in percent of each worker's executors, and the share of its slots that run a task."),
        ("worker", "This worker", "CPU and memory over the last ten minutes."),
        ("memory_by_worker", "Memory by worker", "Bytes of each worker: results, everything else, and spilled."),
        ("memory_by_type", "Memory by type", "Bytes of results that workers keep, by the type of their task."),
        ("backlog_by_worker", "Sent to workers", "Tasks that each worker runs, and that it has not begun."),
        ("lag", "Scheduler", "How late the scheduler's loop comes round, and its CPU."),
        ("stream", "Task stream", "What ran when, on which executor."),
        ("graph", "Graph", "Which tasks need the results of which."),
        ("flame", "Flame graph", "Where Python's time goes: width is the share of samples, callers stand above."),
    )
}


def _figure(traces: Sequence[Any], **layout: Any) -> go.Figure:
    base = {
        "margin": {"l": 52, "r": 12, "t": 8, "b": 34},
        "height": 240,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": colour("muted")},
        "hovermode": "closest",
        "showlegend": len(traces) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "xaxis": {"gridcolor": colour("grid"), "zeroline": False, "automargin": True},
        "yaxis": {"gridcolor": colour("grid"), "zeroline": False, "rangemode": "tozero", "automargin": True},
        "uirevision": "keep",
        "dragmode": "zoom",
    }
    figure = go.Figure(data=traces, layout=base)
    figure.update_layout(layout)
    if figure.layout.xaxis.type == "date":
        figure.update_layout(xaxis={"tickangle": 0, "nticks": 4})
    return figure


def _line(name: str, bind: dict[str, str], paint: str, *, fill: bool = False, stack: bool = False) -> go.Scatter:
    trace = go.Scatter(
        name=name,
        mode="lines",
        line={"width": 1.5, "color": colour(paint)},
        x=[],
        y=[],
        meta={
            "bind": bind,
            "paint": {"line.color": paint, **({"fillcolor": paint} if fill or stack else {})},
            "part": stack,
        },
    )
    if fill or stack:
        trace.fillcolor = colour(paint)
        trace.fill = "tozeroy"
        if pattern(paint):
            trace.fillpattern = {"shape": pattern(paint), "size": 6, "solidity": 0.25}
    if stack:
        trace.line.width = 0.5
        trace.stackgroup = "all"
        trace.fill = None
    return trace


def _bar(name: str, bind: dict[str, str], paint: str, **more: Any) -> go.Bar:
    return go.Bar(
        name=name,
        x=[],
        y=[],
        marker={"color": colour(paint), "pattern": {"shape": pattern(paint), "size": 5, "solidity": 0.3}},
        meta={"bind": bind, "paint": {"marker.color": paint}},
        **more,
    )


def _time(column: str) -> dict[str, str]:
    return {"x": "time", "y": column}


def throughput() -> go.Figure:
    """Tasks a second over time."""
    return _figure([_line("tasks/s", _time("rate"), "done", fill=True)], xaxis={"type": "date"})


def memory() -> go.Figure:
    """The memory of all workers over time, stacked."""
    parts = [("results", "managed"), ("everything else", "unmanaged"), ("spilled to disk", "spilled")]
    lines = [_line(name, _time(part), part, stack=True) for name, part in parts]
    return _figure(lines, xaxis={"type": "date"}, yaxis={"tickformat": "~s", "ticksuffix": "B"})


def backlog() -> go.Figure:
    """Unfinished tasks over time, stacked."""
    parts = [
        ("running or sent", "processing"),
        ("ready", "queued"),
        ("waiting for inputs", "waiting"),
        ("nobody serves it", "no_worker"),
    ]
    return _figure([_line(name, _time(part), part, stack=True) for name, part in parts], xaxis={"type": "date"})


def durations() -> go.Figure:
    """Seconds that each type has taken in all."""
    return _figure(
        [_bar("all runs", {"y": "name", "x": "spent"}, "processing", orientation="h")],
        height=340,
        xaxis={"ticksuffix": " s"},
        yaxis={"autorange": "reversed"},
    )


def cpu() -> go.Figure:
    """How busy each worker is."""
    bars = [
        _bar("CPU", {"x": "worker", "y": "cpu"}, "processing"),
        _bar("slots in use", {"x": "worker", "y": "busy"}, "queued"),
    ]
    return _figure(bars, barmode="group", yaxis={"ticksuffix": " %", "range": [0, 105]})


def worker() -> go.Figure:
    """One worker over time."""
    lines = [
        _line("CPU", _time("cpu"), "processing"),
        _line("memory", _time("memory"), "unmanaged"),
        _line("results", _time("managed"), "managed"),
    ]
    for line in lines[1:]:
        line.yaxis = "y2"
    return _figure(
        lines,
        xaxis={"type": "date"},
        yaxis={"ticksuffix": " %"},
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "tickformat": "~s",
            "ticksuffix": "B",
            "showgrid": False,
            "automargin": True,
            "tickmode": "auto",
        },
    )


def memory_by_worker() -> go.Figure:
    """The memory of each worker, stacked, with its limit."""
    parts = [("results", "managed"), ("everything else", "unmanaged"), ("spilled to disk", "spilled")]
    bars: list[Any] = [_bar(name, {"x": "worker", "y": part}, part) for name, part in parts]
    bars.append(
        go.Scatter(
            name="limit",
            mode="markers",
            x=[],
            y=[],
            marker={"symbol": "line-ew", "size": 26, "line": {"width": 2, "color": colour("ink")}},
            meta={"bind": {"x": "worker", "y": "limit"}, "paint": {"marker.line.color": "ink"}},
        )
    )
    return _figure(bars, barmode="stack", yaxis={"tickformat": "~s", "ticksuffix": "B"}, height=300)


def memory_by_type() -> go.Figure:
    """Which types of tasks hold the memory."""
    return _figure(
        [_bar("results", {"y": "type", "x": "nbytes"}, "managed", orientation="h")],
        xaxis={"tickformat": "~s", "ticksuffix": "B"},
        yaxis={"autorange": "reversed"},
        height=300,
    )


def backlog_by_worker() -> go.Figure:
    """What each worker runs and has not begun."""
    bars = [
        _bar("running", {"x": "worker", "y": "executing"}, "processing"),
        _bar("not begun", {"x": "worker", "y": "backlog"}, "queued"),
    ]
    return _figure(bars, barmode="stack")


def lag() -> go.Figure:
    """The scheduler's loop and CPU over time."""
    lines = [_line("late by", _time("lag"), "failed"), _line("CPU", _time("cpu"), "processing")]
    lines[1].yaxis = "y2"
    return _figure(
        lines,
        xaxis={"type": "date"},
        yaxis={"ticksuffix": "s", "tickformat": "~s"},
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "ticksuffix": " %",
            "showgrid": False,
            "automargin": True,
            "tickmode": "auto",
        },
    )


def stream() -> go.Figure:
    """What ran when on which executor: a trace for each of the largest types, one for the others, one for failures."""
    traces: list[Any] = []
    for number in range(len(SERIES_LIGHT) + 1):
        shade = SERIES_LIGHT[number] if number < len(SERIES_LIGHT) else REST
        traces.append(_marks(f"t{number}", {"marker.color": f"series{number}"}, shade, ""))
    traces.append(_marks("failed", {"marker.color": "failed"}, colour("failed"), pattern("failed")))
    return _figure(
        traces,
        barmode="overlay",
        bargap=0.15,
        height=460,
        xaxis={"type": "date"},
        yaxis={"type": "category", "autorange": "reversed", "rangemode": "normal", "categoryorder": "array"},
        dragmode="pan",
    )


def _marks(column: str, paint: dict[str, str], shade: str, shape: str) -> go.Bar:
    return go.Bar(
        orientation="h",
        x=[],
        y=[],
        base=[],
        name=column,
        customdata=[],
        width=0.85,
        marker={"color": shade, "pattern": {"shape": shape, "size": 4, "solidity": 0.4}, "line": {"width": 0}},
        hovertemplate="%{customdata}<extra>%{y}</extra>",
        meta={
            "bind": {
                "x": f"{column}.length",
                "y": f"{column}.lane",
                "base": f"{column}.start",
                "customdata": f"{column}.text",
                "name": f"{column}.name",
                "meta.links": f"{column}.links",
            },
            "paint": paint,
        },
    )


def graph() -> go.Figure:
    """Nodes in layers, with lines from inputs to outputs."""
    lines = go.Scatter(
        name="needs",
        mode="lines",
        x=[],
        y=[],
        line={"width": 1, "color": colour("waiting")},
        hoverinfo="skip",
        meta={"bind": {"x": "edges.x", "y": "edges.y"}, "paint": {"line.color": "waiting"}},
    )
    symbols = {
        "done": "circle",
        "processing": "square",
        "queued": "diamond",
        "waiting": "circle-open",
        "failed": "x",
        "no_worker": "triangle-up",
    }
    nodes = [
        go.Scatter(
            name=state.replace("_", " "),
            mode="markers+text",
            x=[],
            y=[],
            text=[],
            textposition="top center",
            customdata=[],
            hovertemplate="%{customdata}<extra></extra>",
            marker={
                "size": [],
                "symbol": symbol,
                "color": colour(state),
                "line": {"width": 1, "color": colour("ground")},
            },
            meta={
                "bind": {
                    "x": f"{state}.x",
                    "y": f"{state}.y",
                    "text": f"{state}.label",
                    "customdata": f"{state}.text",
                    "marker.size": f"{state}.size",
                    "meta.links": f"{state}.links",
                },
                "paint": {"marker.color": state, "marker.line.color": "ground", "textfont.color": "ink"},
            },
        )
        for state, symbol in symbols.items()
    ]
    hidden = {"visible": False, "rangemode": "normal"}
    return _figure([lines, *nodes], height=520, xaxis=hidden, yaxis={**hidden, "autorange": "reversed"}, dragmode="pan")


def flame() -> go.Figure:
    """An icicle of samples: callers above, callees below."""
    trace = go.Icicle(
        ids=[],
        labels=[],
        parents=[],
        values=[],
        branchvalues="total",
        tiling={"orientation": "v"},
        root={"color": "rgba(0,0,0,0)"},
        customdata=[],
        hovertemplate="%{customdata}<br>%{percentRoot:.1%}<extra></extra>",
        marker={"colorscale": [[0, "#f6e3b4"], [0.5, "#e9a85b"], [1, "#c4641c"]]},
        textposition="top left",
        meta={
            "bind": {"ids": "ids", "labels": "labels", "parents": "parents", "values": "values", "customdata": "text"},
            "paint": {},
        },
    )
    return _figure([trace], height=560, margin={"l": 4, "r": 4, "t": 4, "b": 4})


MAKERS: Mapping[str, Callable[[], go.Figure]] = {
    "throughput": throughput,
    "memory": memory,
    "backlog": backlog,
    "durations": durations,
    "cpu": cpu,
    "worker": worker,
    "memory_by_worker": memory_by_worker,
    "memory_by_type": memory_by_type,
    "backlog_by_worker": backlog_by_worker,
    "lag": lag,
    "stream": stream,
    "graph": graph,
    "flame": flame,
}


@cache
def _spec(name: str) -> str:
    return str(MAKERS[name]().to_json())


def spec(name: str) -> dict[str, Any]:
    """Traces and layout of a figure, as JSON has them, without data."""
    made: dict[str, Any] = json.loads(_spec(name))
    # The page has its own style; Plotly's template is half of the bytes.
    made["layout"].pop("template", None)
    return made


@cache
def style_marks() -> list[str]:
    """Ids of elements in whose presence plotly.js inserts no style of its own, which the site's policy forbids."""
    script = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")
    return sorted(set(re.findall(r'getElementById\("([0-9a-f]{64})"\)', script)))


def specs(names: Iterable[str]) -> dict[str, Any]:
    """The same for several figures, by name."""
    return {name: spec(name) for name in names}


def filled(name: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """A figure with its data, for a report."""
    made = copy.deepcopy(spec(name))
    for trace in made["data"]:
        for attribute, column in trace["meta"]["bind"].items():
            value: Any = columns
            for part in column.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            target = trace
            *path, last = attribute.split(".")
            for step in path:
                target = target.setdefault(step, {})
            target[last] = value if value is not None else ("" if last == "name" else [])
    return made
