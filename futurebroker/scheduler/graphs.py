"""Which tasks were submitted together, known without a word in any task's record (sans-IO).

A graph is what one client submits in one go: a graph of a collection or a canvas, or single calls with no pause between
them. What is submitted while something it needs isn't finished belongs to the graph of that, and what a task submits to
the graph of the task. A task's order holds the running number of the first that it goes back to so, and graphs are
ranges of running numbers: to know a task's graph is to look its number up.
"""

from __future__ import annotations

from bisect import bisect_right
from hashlib import blake2b
from typing import Any

from futurebroker.types import ClientId

#: seconds without a call after which single calls are another graph
PAUSE = 1.0
#: running numbers left free before a range; a task gets its number less one for each that submitted it and the like
GAP = 4096
#: ranges that are known; beyond them the older half is forgotten
MOST = 10_000
#: clients whose last graph may go on
OPEN_MOST = 1_000


class Graph:
    """What was submitted together; times are the machine's."""

    __slots__ = ("at", "client", "extended_at", "first", "name", "types")

    def __init__(self, client: ClientId, name: str, first: int, at: float) -> None:
        self.client = client
        self.name = name  #: that its client gave it; empty: single calls
        self.first = first  #: of its running numbers
        self.at = self.extended_at = at
        self.types: dict[str, int] = {}  #: by name of their function, how many tasks it has

    @property
    def digest(self) -> str:
        """What it is known by, also to the next scheduler."""
        return blake2b(f"{self.first} {self.client}".encode(), digest_size=16).hexdigest()


class Graphs:
    """All graphs that are known."""

    __slots__ = ("_firsts", "_graphs", "_open", "changed", "current")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        #: None for tasks that nobody submitted, as those that were planned for a failure
        self._graphs: list[Graph | None] = []
        #: by client and name, the graph that goes on if more comes soon
        self._open: dict[tuple[ClientId, str], Graph] = {}
        #: the graph of the newest running number
        self.current: Graph | None = None
        #: graphs that have grown since somebody looked
        self.changed: dict[Graph, None] = {}

    def enter(self, client: ClientId, name: str, number: int, now: float) -> int:
        """A client is about to submit; ``number`` is the last that was given, returned is the one to go on after."""
        graph = self.current
        if graph is not None and graph.client == client and graph.name == name:
            if name or now - graph.extended_at < PAUSE:  # as of `_goes_on`; this is done for each message
                graph.extended_at = now
                return number
        place = (client, name)
        graph = self._open.get(place)
        first = number + 1
        if graph is None or not _goes_on(graph, now):
            graph = self._open[place] = Graph(client, name, first, now)
            if len(self._open) > OPEN_MOST:
                self._open = {place: one for place, one in self._open.items() if now - one.extended_at < PAUSE}
        graph.extended_at = now
        return self._begin(graph, number)

    def leave(self, number: int) -> int:
        """Tasks come that belong to no graph; as `enter`."""
        return number if self.current is None else self._begin(None, number)

    def _begin(self, graph: Graph | None, number: int) -> int:
        self.current = graph
        self._firsts.append(number + 1)
        self._graphs.append(graph)
        if len(self._firsts) > MOST:
            self._forget()
        return number + GAP

    def _forget(self) -> None:
        half = MOST // 2
        del self._firsts[:half], self._graphs[:half]
        known = dict.fromkeys(self._graphs)
        self.changed = {graph: None for graph in self.changed if graph in known}

    def add(self, name: str, count: int) -> None:
        """``count`` calls of the function ``name`` were submitted with the graph at hand."""
        graph = self.current
        if count and graph is not None:
            graph.types[name] = graph.types.get(name, 0) + count
            self.changed[graph] = None

    def join(self, number: int, name: str) -> None:
        """A call of the function ``name`` goes back to the running number ``number``."""
        graph, _, _ = self.around(number)
        if graph is not None:
            graph.types[name] = graph.types.get(name, 0) + 1
            self.changed[graph] = None

    def around(self, number: int) -> tuple[Graph | None, int, int]:
        """The graph of a running number, None if that isn't known, and the range around it of which that is true."""
        place = bisect_right(self._firsts, number)
        stop = self._firsts[place] if place < len(self._firsts) else number + GAP
        if not place:
            return None, 0, stop
        return self._graphs[place - 1], self._firsts[place - 1], stop

    def look_at_all(self) -> None:
        """Somebody looks for the first time."""
        self.changed = {graph: None for graph in self._graphs if graph is not None}

    # -- for checkpoints ----------------------------------------------------------------------------------------------

    def dump(self, offset: float) -> list[Any]:
        """All of them, and the ranges; times in seconds since 1970, which ``offset`` makes of the machine's."""
        graphs = [graph for graph in dict.fromkeys(self._graphs) if graph is not None]
        places: dict[Graph | None, int] = {graph: place for place, graph in enumerate(graphs)}
        rows = [
            (one.client, one.name, one.first, one.at + offset, one.extended_at + offset, one.types) for one in graphs
        ]
        return [rows, self._firsts, [places.get(graph, -1) for graph in self._graphs]]

    def load(self, rows: list[Any], offset: float) -> None:
        """Take in what `dump` gave."""
        rows, self._firsts, places = rows
        graphs: list[Graph] = []
        for client, name, first, at, extended_at, types in rows:
            graph = Graph(client, name, first, at - offset)
            graph.extended_at = extended_at - offset
            graph.types = types
            graphs.append(graph)
            self._open[client, name] = graph
        self._graphs = [graphs[place] if place >= 0 else None for place in places]
        self.current = self._graphs[-1] if self._graphs else None


def _goes_on(graph: Graph, now: float) -> bool:
    return bool(graph.name) or now - graph.extended_at < PAUSE
