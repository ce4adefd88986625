"""Places the nodes of a graph in layers, inputs above what needs them, with few crossings (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

#: times that each layer is put in order by its neighbours
SWEEPS = 6
#: nodes without any edge in a row
ALONE = 24


def layered(nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """Node -> (x, y): ``y`` is the layer, by the longest way from a node without inputs; ``x`` is from -1 to 1.

    An edge that would close a circle, as kinds of tasks may have, counts for no layer. Nodes without any edge stand in
    rows below the others.
    """
    edges = list(edges)
    tied = {node for edge in edges for node in edge if edge[0] != edge[1]}
    known = dict.fromkeys(node for node in nodes if node in tied)
    alone = [node for node in nodes if node not in tied]
    places = _tied(known, edges)
    below = max((y for _, y in places.values()), default=-1.0) + 1
    for index, node in enumerate(alone):
        row, column = divmod(index, ALONE)
        count = min(ALONE, len(alone) - row * ALONE) if len(alone) <= ALONE else ALONE
        places[node] = (_spread(column, count), below + row / 3)
    return places


def _tied(known: dict[str, None], edges: Iterable[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """The places of nodes that have edges."""
    forward = _without_circles(known, edges)
    depth = _depths(known, forward)
    layers: dict[int, list[str]] = defaultdict(list)
    for node in known:
        layers[depth[node]].append(node)
    before: dict[str, list[str]] = defaultdict(list)
    after: dict[str, list[str]] = defaultdict(list)
    for source, target in forward:
        after[source].append(target)
        before[target].append(source)
    place = {node: index for layer in layers.values() for index, node in enumerate(layer)}
    order = sorted(layers)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = before if down else after
        for level in order if down else reversed(order):
            layer = layers[level]
            layer.sort(
                key=lambda node: (_middle([place[other] for other in neighbours[node]], place[node]), place[node])
            )
            for index, node in enumerate(layer):
                place[node] = index
    return {node: (_spread(place[node], len(layers[depth[node]])), float(depth[node])) for node in known}


def _without_circles(known: dict[str, None], edges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges but for those that lead back to where a walk came from."""
    follow: dict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        if source in known and target in known and source != target:
            follow[source].append(target)
    kept: list[tuple[str, str]] = []
    done: set[str] = set()
    for root in known:
        if root in done:
            continue
        path = {root}
        walk = [(root, iter(follow[root]))]
        while walk:
            node, targets = walk[-1]
            following = next(targets, None)
            if following is None:
                walk.pop()
                path.discard(node)
                done.add(node)
            elif following not in path:
                kept.append((node, following))
                if following not in done:
                    path.add(following)
                    walk.append((following, iter(follow[following])))
    return kept


def _depths(known: dict[str, None], edges: list[tuple[str, str]]) -> dict[str, int]:
    after: dict[str, list[str]] = defaultdict(list)
    missing: dict[str, int] = dict.fromkeys(known, 0)
    for source, target in edges:
        after[source].append(target)
        missing[target] += 1
    depth = dict.fromkeys(known, 0)
    ready = [node for node, count in missing.items() if not count]
    while ready:
        node = ready.pop()
        for target in after[node]:
            depth[target] = max(depth[target], depth[node] + 1)
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    return depth


def _middle(places: list[int], own: int) -> float:
    return sum(places) / len(places) if places else float(own)


def _spread(index: int, count: int) -> float:
    return 0.0 if count == 1 else -1 + 2 * (index + 0.5) / count
