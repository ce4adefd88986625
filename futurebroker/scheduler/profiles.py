"""Joins the profiles of many executors to one tree of calls (sans-IO)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def merge(trees: Iterable[dict[str, Any] | None]) -> dict[str, Any]:
    """One tree with the counts of all; a node is ``{name, file, line, count, children}``, the root has no name.

    ``count`` is how often the call was seen, itself or in what it called; children come largest first.
    """
    return _joined([tree for tree in trees if tree])


def _joined(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for node in nodes:
        for child in node["children"]:
            groups.setdefault((child["name"], child["file"], child["line"]), []).append(child)
    children = sorted((_joined(group) for group in groups.values()), key=lambda child: -child["count"])
    first = nodes[0] if nodes else {"name": "", "file": "", "line": 0}
    return {
        "name": first["name"],
        "file": first["file"],
        "line": first["line"],
        "count": sum(node["count"] for node in nodes),
        "children": children,
    }
