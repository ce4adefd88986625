"""The colours of states and parts: those of Okabe and Ito, which the colour-blind tell apart, each with a pattern.

The style sheet holds the same colours for light and dark as ``--c-NAME``; figures are painted from there in a page, and
with these in a report. No state is told by colour alone: bars carry a pattern, and the word stands beside it.
"""

from __future__ import annotations

#: name -> (colour on light ground, colour on dark ground, Plotly's pattern)
COLOURS: dict[str, tuple[str, str, str]] = {
    "done": ("#0a7f5c", "#2fb890", ""),
    "processing": ("#0a68a8", "#4aa3df", ""),
    "queued": ("#5aa9d6", "#8fc9ec", "."),
    "waiting": ("#8a8f98", "#9aa3ad", "/"),
    "no_worker": ("#d98a00", "#f0b040", "x"),
    "failed": ("#c4441c", "#f2825c", "\\"),
    "memory": ("#0a7f5c", "#2fb890", ""),
    "managed": ("#0a7f5c", "#2fb890", ""),
    "unmanaged": ("#9aa3ad", "#7d8793", "/"),
    "spilled": ("#a8578a", "#d891bd", "x"),
    "cancelled": ("#6b7079", "#8a929c", "-"),
    "transfer": ("#c9a500", "#e6cf4d", "+"),
    "ink": ("#20252b", "#e6e9ec", ""),
    "muted": ("#5c646d", "#a2abb5", ""),
    "grid": ("#e4e4df", "#2b3138", ""),
    "ground": ("#ffffff", "#1a1e23", ""),
}

#: for types of tasks, which have no meaning of their own: Paul Tol's "bright" and "muted", then a neutral for the rest
SERIES_LIGHT = ("#4477aa", "#cc6677", "#228833", "#b38f00", "#66ccee", "#aa3377", "#332288", "#999933", "#882255")
SERIES_DARK = ("#77aadd", "#ee8899", "#66bb77", "#eecc66", "#99ddee", "#dd88bb", "#9988dd", "#cccc66", "#cc77aa")
REST = "#8a8f98"


def colour(name: str) -> str:
    """The colour of a name on light ground."""
    return COLOURS[name][0]


def pattern(name: str) -> str:
    """The pattern of a name."""
    return COLOURS[name][2]
