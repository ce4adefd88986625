"""Where the time of tasks goes: a thread in each executor looks at what runs, fifty times a second.

What it sees is counted in trees of calls, one for every `BUCKET` seconds; the newest `BUCKETS` of them are kept, so an
executor remembers ten minutes. Nothing is done for a task as such: a task shorter than the interval is seen now and
then, which is right on average. With nothing to see the thread looks twice a second.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from itertools import accumulate, chain, islice, repeat, takewhile
from operator import attrgetter, methodcaller
from types import CodeType
from typing import Any

from futurebroker.worker.seats import Seats

#: seconds between looks while tasks run, and while none does
INTERVAL = 0.02
IDLE_INTERVAL = 0.5
#: looks that find nothing before the longer interval begins
PATIENCE = 10
#: seconds that one tree covers, and how many are kept
BUCKET = 10.0
BUCKETS = 60
#: calls a tree may hold; what would be more is counted where it was called
NODES = 5_000


class Node:
    """A call, by its place in the code, and how often it was seen there."""

    __slots__ = ("children", "count")

    def __init__(self) -> None:
        self.count = 0
        self.children: dict[Any, Node] = {}


class Tree:
    """The calls of some seconds: below the root by the name that keys of the tasks begin with, then as they called."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.root = Node()
        self._size = 0

    def add(self, path: list[Any]) -> None:
        """Count a call stack, outermost call first."""
        node = self.root
        node.count += 1
        for place in path:
            child = node.children.get(place)
            if child is None:
                if self._size >= NODES:
                    return
                self._size += 1
                child = node.children[place] = Node()
            child.count += 1
            node = child


def key_name(key: str) -> str:
    """What the keys of equal calls begin with: ``inc`` of ``inc-a1b2-7`` and ``add`` of ``('add-c3d4', 0)``."""
    return key.lstrip("('\"").partition("-")[0].rstrip("')\",") or key


class Profiler:
    """See the top of this file.

    Args:
        boundary: the code that calls tasks; what it was called by is of no interest.
    """

    def __init__(self, seats: Seats, boundary: CodeType) -> None:
        self._seats = seats
        self._boundary = boundary
        self._stopped = threading.Event()
        self._trees: deque[Tree] = deque(maxlen=BUCKETS)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="profile", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        vain = 0
        while not self._stopped.wait(INTERVAL if vain < PATIENCE else IDLE_INTERVAL):
            vain = 0 if self.sample(time.time()) else vain + 1

    def sample(self, now: float) -> bool:
        """Look once, at wall time ``now``; whether anything ran."""
        running = [(slot.thread, slot.key) for slot in list(self._seats.slots) if slot.task and not slot.is_away]
        if not running:
            return False
        stacks = [(key, stack_of(thread)) for thread, key in running]
        with self._lock:
            if not self._trees or now - self._trees[-1].began >= BUCKET:
                self._trees.append(Tree(now))
            tree = self._trees[-1]
            for key, stack in stacks:
                if self._boundary in stack:
                    path = reversed(stack[: stack.index(self._boundary)])
                    tree.add([key_name(key), *map(_place, path)])
        return True

    def view(self, about: dict[str, Any]) -> dict[str, Any]:
        """The calls seen from ``start`` to ``stop`` (wall times) in tasks named ``key``, as one tree of plain data."""
        start, stop, key = about.get("start") or 0.0, about.get("stop") or float("inf"), about.get("key")
        with self._lock:
            total: dict[str, Any] = plain("", "", 0)
            for tree in self._trees:
                if tree.began + BUCKET < start or tree.began > stop:
                    continue
                for name, node in tree.root.children.items():
                    if key is None or name == key:
                        total["count"] += node.count
                        _merge(total, name, node)
        return _listed(total)


def stack_of(thread: int) -> list[CodeType]:
    """What a thread runs, the innermost call first; empty if there is no such thread.

    All of it happens inside one call of ``list``, so that no other thread runs meanwhile. Walking in Python, while the
    thread went on, was seen to find what is no frame, and to end an executor inside of Python 3.11's ``f_back``.
    """
    top = islice(map(methodcaller("get", thread), iter(sys._current_frames, None)), 1)
    frames = takewhile(bool, accumulate(chain(top, repeat("f_back")), getattr))
    return list(map(attrgetter("f_code"), frames))


def _place(code: CodeType) -> tuple[str, str, int]:
    return code.co_qualname, code.co_filename, code.co_firstlineno


def plain(name: str, file: str, line: int) -> dict[str, Any]:
    """A call of no count yet, as it travels but for its children, which travel as a list."""
    return {"name": name, "file": file, "line": line, "count": 0, "children": {}}


def _merge(parent: dict[str, Any], place: Any, node: Node) -> None:
    target = parent["children"].get(place)
    if target is None:
        name, file, line = place if isinstance(place, tuple) else (place, "", 0)
        target = parent["children"][place] = plain(name, file, line)
    target["count"] += node.count
    for inner, child in node.children.items():
        _merge(target, inner, child)


def _listed(node: dict[str, Any]) -> dict[str, Any]:
    return {**node, "children": [_listed(child) for child in node["children"].values()]}
