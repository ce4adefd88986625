"""`DependencyGraph`: results and what came of them, for `AsyncResult.build_graph`; printed, sorted, or drawn as DOT."""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterable, Iterator, Mapping
from typing import Any, TextIO

#: attributes of what is drawn
_NODE = {"style": "filled", "fontname": "HelveticaNeue", "fillcolor": "palegreen3", "color": "palegreen4"}
_LEAF = {**_NODE, "fillcolor": "palegreen1", "color": "palegreen2"}
_EDGE = {"arrowhead": "vee", "color": "darkseagreen4", "arrowsize": 0.7}


class GraphFormatter:
    """How a graph is drawn; subclass it for labels and attributes of one's own.

    Args:
        root: what the graph begins with.
        type: ``digraph`` or ``graph``.
        scheme: attributes of every node.
    """

    def __init__(self, root: Any = None, type: str | None = None, id: str | None = None, **scheme: Any) -> None:
        self.root = root
        self.type = type or "digraph"
        self.id = id or "dependencies"
        self.scheme = {"shape": "box", **scheme}

    def label(self, obj: Any) -> Any:
        """What a node is called."""
        return obj

    def node(self, obj: Any, **attrs: Any) -> str:
        """One that has others below it."""
        return f'    "{self.label(obj)}" {_attributes({**self.scheme, **_NODE, **attrs})}'

    def terminal_node(self, obj: Any, **attrs: Any) -> str:
        """One that has none."""
        return f'    "{self.label(obj)}" {_attributes({**self.scheme, **_LEAF, **attrs})}'

    def edge(self, a: Any, b: Any, **attrs: Any) -> str:
        """From one to another."""
        arrow = "->" if self.type == "digraph" else "--"
        return f'    "{self.label(a)}" {arrow} "{self.label(b)}" {_attributes({**_EDGE, **attrs})}'

    def head(self, **attrs: Any) -> str:
        """The first lines."""
        around = {"bgcolor": "mintcream", "root": self.label(self.root), **attrs}
        return f"{self.type} {self.id} {{\n    graph {_attributes(around)}"

    def tail(self) -> str:
        """The last line."""
        return "}"


def _attributes(given: Mapping[str, Any]) -> str:
    pairs = [f'{name}="{value}"' for name, value in given.items()]
    return f"[{', '.join(pairs)}]"


class DependencyGraph:
    """Objects, and the others that each leads to, without circles.

    Args:
        it: pairs of an object and those it leads to.
        formatter: how `to_dot` draws it.
    """

    def __init__(self, it: Iterable[tuple[Hashable, Iterable[Hashable]]] | None = None, formatter: Any = None) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        self.update(it or ())

    def add_arc(self, obj: Hashable) -> None:
        """Add an object."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, a: Hashable, b: Hashable) -> None:
        """Have ``a``, which is there, lead to ``b``."""
        self.adjacent[a].append(b)

    def connect(self, graph: DependencyGraph) -> None:
        """Add what another graph has."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[Hashable, Iterable[Hashable]]]) -> None:
        """Add objects, each with those it leads to."""
        pairs = [(obj, list(others)) for obj, others in it]
        for obj, _ in pairs:
            self.add_arc(obj)
        for obj, others in pairs:
            for other in others:
                self.add_edge(obj, other)

    def topsort(self) -> list[Any]:
        """All objects, each after those it leads to."""
        done: dict[Any, None] = {}
        for start in self.adjacent:
            stack = [(start, iter(self.adjacent[start]))]
            while stack:
                obj, others = stack[-1]
                further = next((other for other in others if other not in done), None)
                if further is None:
                    stack.pop()
                    done[obj] = None
                else:
                    stack.append((further, iter(self.adjacent.get(further, ()))))
        return list(done)

    def valency_of(self, obj: Hashable) -> int:
        """How many ways lead on from an object, counted down to the last."""
        ways: dict[Any, int] = {}
        for node in self.topsort():
            ways[node] = sum(1 + ways[other] for other in self.adjacent.get(node, ()))
        return ways.get(obj, 0)

    def edges(self) -> Iterator[Any]:
        """The objects that lead to others."""
        return (obj for obj, others in self.adjacent.items() if others)

    def items(self) -> ItemsView[Any, list[Any]]:
        """Each object with those it leads to."""
        return self.adjacent.items()

    iteritems = items

    def to_dot(self, fh: TextIO, formatter: Any = None) -> None:
        """Write it to an open text file, in Graphviz' language."""
        draw = formatter or self.formatter
        print(draw.head(), file=fh)
        for obj, others in self.adjacent.items():
            print(draw.node(obj) if others else draw.terminal_node(obj), file=fh)
            for other in others:
                print(draw.edge(obj, other), file=fh)
        print(draw.tail(), file=fh)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Hashable) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: object) -> bool:
        return obj in self.adjacent

    def __repr__(self) -> str:
        return "\n".join(f"{obj} -> {', '.join(map(str, others))}" for obj, others in self.adjacent.items())
