"""Keys that users choose, in the simulator: a call under one is new, and other calls follow under the same key.

In a share of the runs the keys of the whole graph are chosen, and in one there are keys that are let go of and used
anew. Each use has a value of its own, so that no future may end with what was made of another. It draws from chances of
its own, so that seeds stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from futurebroker.protocol.messages import INLINE_LIMIT, KEEP_LIMIT, KeyCancelled, TaskOptions
from tests.sim.oracle import Call, Node

#: share of runs whose graph has chosen keys, and of those in which keys are used again
CHOSEN = 0.4
SHARE = 0.35


@dataclass(frozen=True)
class Use:
    """One call under a key."""

    at: float
    node: Node
    #: whether the call before is cancelled, and not only let go of; and seconds between that and this
    cancels: bool
    gap: float
    #: what is made of it
    follower: Node | None


class Reuse:
    """The keys that one run uses again; see the top of this file."""

    def __init__(self, seed: int) -> None:
        random = self._random = Random(f"reuse {seed}")
        self.chosen = random.random() < CHOSEN
        #: key -> how many calls there are under it
        self.versions: dict[str, int] = {}
        #: keys that others may still hold or need when they are used again, and keys that other clients want
        self.held: set[str] = set()
        self.shared: set[str] = set()
        self.uses: list[Use] = []
        if random.random() < SHARE:
            for number in range(random.randint(1, 3)):
                self._use(f"again-{number}")

    def nodes(self) -> list[Node]:
        """What the first call under each key is, and what follows on it."""
        first = [use for use in self.uses if not version_of(use.node)]
        return [use.node for use in first] + [use.follower for use in first if use.follower is not None]

    def _use(self, key: str) -> None:
        random = self._random
        self.versions[key] = random.randint(2, 4)
        at = random.uniform(0.0, 3.0)
        if random.random() < 0.2:
            self.shared.add(key)
            self.held.add(key)
        options = TaskOptions(retries=random.choice((0, 2)))
        for version in range(self.versions[key]):
            size, stored = random.choice(((20, False), (KEEP_LIMIT + 1, False), (40, True), (INLINE_LIMIT + 1, True)))
            seconds = random.choice((0.0002, 0.002, 0.05, 0.5, 1.5))
            node = Node(key, (), Call(key, size, stored, seconds, version=version), options, size)
            cancels, gap = random.random() < 0.2, random.choice((0.0, 0.0, 0.02, 0.3))
            follower = None
            if not version and random.random() < 0.3:
                self.held.add(key)
                call = Call(f"of-{key}", seconds=random.choice((0.002, 0.5, 2.0)))
                follower = Node(call.key, (key,), call, TaskOptions())
            self.uses.append(Use(at, node, cancels, gap, follower))
            at += gap + random.choice((0.001, 0.01, 0.1, 0.5, 2.0)) * random.uniform(0.5, 1.5)

    def permits(self, message: KeyCancelled) -> bool:
        """Whether a future may have ended so: its key is somebody's, or what it follows on was cancelled."""
        if message.kind == "duplicate":
            return message.key in self.held
        return any(use.cancels and message.key == f"of-{use.node.key}" for use in self.uses)

    def calls(self, key: str) -> list[Call | None]:
        """All calls that are made under a key."""
        return [use.node.call for use in self.uses if use.node.key == key]

    def wanted(self) -> list[tuple[float, list[str]]]:
        """When another client wants which of the keys."""
        return [(self._random.uniform(0.0, 6.0), [key]) for key in sorted(self.shared)]


def version_of(node: Node) -> int:
    """Which call under its key it is."""
    return node.call.version if node.call is not None else 0
