"""What is agreed for single tasks, in the simulator: times, runs again, revocations, queues, rates, calls on failure.

A share of all runs has it. It draws from a chance of its own, so that the graph, the people and the trouble of a seed
are the same with and without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import replace
from random import Random
from typing import Any

import msgspec

from futurebroker.protocol import messages as m
from tests.sim.oracle import FUNCTION, LIMITED, Call, Node, encode_call

#: share of runs in which something is agreed
SHARE = 0.6
#: runs a second of limited tasks
RATE = 20.0
#: seconds between firings of the schedule, and its name
EVERY = 0.7
SCHEDULE = "tick"
#: what is computed at a firing
FIRED = "beat"
#: failures after which no planned calls are made, or not always
_UNPLANNED = ("TaskRevokedError", "DataLostError", "TimeLimitExceeded")
#: seconds that sums of times may be off by
SLACK = 1e-6


class Executions:
    """What executors began and how it ended, over the lives of all workers."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        #: of these, the ids of what a schedule ran
        self.fired: set[str] = set()
        #: executors that ended with tasks in them that had nothing to do with it: another was revoked, or ended it
        self.kills = 0
        #: how often each was one of several that waited in an executor that ended while nothing ran in it
        self.suspected: Counter[str] = Counter()
        #: whether all schedulers so far knew what must not run twice
        self.strict = True
        self._raised: Counter[str] = Counter()
        self._unknown: set[str] = set()
        self._retried: set[str] = set()

    def raises(self, call: Call) -> bool:
        """Whether this run of it raises."""
        self._raised[call.key] += 1
        return self._raised[call.key] <= call.fails

    def begin(self, key: str, call: Call, now: float) -> None:
        """An executor begins a task."""
        self.begun[key] += 1
        if call.key == FIRED:
            self.fired.add(key)
        assert call.due <= now + SLACK, f"{key} was begun at {now}, and may not before {call.due}"
        if call.once and self.strict and key not in self._retried:
            assert key not in self._unknown, f"{key} was begun again, and must not be"
        self._unknown.add(key)

    def retry(self, keys: Iterable[str]) -> None:
        """Somebody has these tried again, who knows what they did: they may be begun once more."""
        self._retried.update(keys)

    def end(self, key: str, goes_on: bool) -> None:
        """It raised, was not done, or lacked its inputs: it may be begun again."""
        if goes_on:
            self._unknown.discard(key)


class Agreements:
    """What is agreed in one run; see the top of this file."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"agreed {seed}")
        self.active = self.random.random() < SHARE
        self.has_schedule = self.active and self.random.random() < 0.4
        #: keys that were revoked by anybody
        self.revoked: set[str] = set()
        #: keys that others become, which their client must not let go of
        self.needed: set[str] = set()
        self._nodes: dict[str, Node] = {}
        #: for whether results may leave; of its own, so that seeds stay what they are
        self._leaving = Random(f"leaves {seed}")
        self._for_all = self.random.random() < 0.3
        #: whether results that must not be made twice can be let go of and lost; drawn apart from all else
        self._lineage = Random(f"lineage {seed}")

    def equip(self, nodes: list[Node]) -> list[Node]:
        """The same graph, with more agreed for its tasks."""
        if self.active:
            nodes = [self._equipped(node, nodes[:place]) for place, node in enumerate(nodes)]
        self._nodes = {node.key: node for node in nodes}
        return nodes

    def _equipped(self, node: Node, before: list[Node]) -> Node:
        call = node.call
        if call is None:
            return node
        random = self.random
        options: dict[str, Any] = {}
        more: dict[str, Any] = {}
        if self._draw(0.15):
            options |= {"rate_limit": RATE, "rate_for_all": self._for_all}
            more["function"] = LIMITED
        if self._draw(0.15):
            options["queue"] = "mail"
        if self._draw(0.15):
            options["keep"] = random.choice((2.0, 15.0))
        if self._draw(0.2):
            options["durable"] = True
        if self._draw(0.1):
            options["unwanted"] = True
        if self._draw(0.15):
            options["at_most_once"] = True
            call = msgspec.structs.replace(call, once=True, size=40, stored=True)
            if self._lineage.random() < 0.3:
                options["durable"] = True
                call = msgspec.structs.replace(call, stored=False)
        elif self._draw(0.1):
            options["fails_with_executor"] = True
        if self._draw(0.2):
            more["countdown"] = random.uniform(0.1, 3)
        if self._draw(0.15):
            more["lifetime"] = random.uniform(0.05, 4)
        if self._draw(0.15):
            call = msgspec.structs.replace(call, again=random.randint(1, 2), delay=random.choice((0.0, 0.0, 0.3, 2.0)))
            if self._leaving.random() < 0.4:
                call = msgspec.structs.replace(call, moves=self._leaving.choice(("", "mail")))
        if before and self._draw(0.12):
            more["becomes"] = random.choice(before).key
            self.needed.add(more["becomes"])
        if self._draw(0.15):
            more["errback"] = f"e-{node.key}"
        if options.get("keep") and self._leaving.random() < 0.7:
            options |= {"leaves": True, "durable": True}
        call = msgspec.structs.replace(call, says=self._draw(0.15))
        more["joins"] = self._draw(0.1)
        if before and self._draw(0.2):
            more["parent"] = random.choice(before).key
        return replace(node, call=call, options=msgspec.structs.replace(node.options, **options), **more)

    def _draw(self, share: float) -> bool:
        return self.random.random() < share

    def used_up(self) -> list[str]:
        """Keys of tasks that must not run twice, and that their client lets go of because others are made of them."""
        if self._lineage.random() < 0.2:
            return []
        used = {name for node in self._nodes.values() for name in node.dependencies}
        once = (node for node in self._nodes.values() if node.options.at_most_once and not node.options.durable)
        return [node.key for node in once if node.key in used and node.key not in self.needed]

    def queues(self, number: int) -> list[str] | None:
        """What a worker takes from; the first takes everything."""
        if not self.active or not number:
            return None
        return self.random.choice((None, ["celery"], ["celery", "mail"], ["mail"]))

    def described(self) -> list[m.Message]:
        """What workers tell of their app."""
        if not self.has_schedule:
            return []
        options = msgspec.to_builtins(m.TaskOptions(at_most_once=True, unwanted=True))
        args = encode_call(Call(FIRED, seconds=0.002, once=True))
        entry = [SCHEDULE, "sim", ["interval", EVERY, False], "f", FUNCTION, b"code", args, options, 0.0, True]
        return [m.Said("app", "", {"app": "sim", "schedules": [entry]})]

    def looked_for(self, keys: list[str]) -> list[tuple[float, str]]:
        """Keys of results that may have left by then, and when somebody lets go of them or asks for them."""
        random = self._leaving
        leaving = [key for key in keys if (node := self._nodes.get(key)) is not None and node.options.leaves]
        leaving = [key for key in leaving if key not in self.needed and not self._nodes[key].options.unwanted]
        return [(random.uniform(0.5, 14.0), random.choice(leaving)) for _ in range(2 * len(leaving))]

    def made_again(self, keys: list[str]) -> list[tuple[float, list[str]]]:
        """Keys that are submitted again, and when."""
        random = self._leaving
        times = random.choice((0, 1, 2))
        return [(random.uniform(0.0, 4.0), random.sample(keys, max(1, len(keys) // 3))) for _ in range(times)]

    # -- the reckoning ----------------------------------------------------------------------------------------------

    def permits(
        self, failure: m.Failure, *, troubled: bool, known: Container[str], let_go: Container[str] = ()
    ) -> bool:
        """Whether a task may have failed so by what is agreed for it.

        Args:
            let_go: keys whose results somebody released or cancelled.
            troubled: whether a worker, an executor or the scheduler was lost.
            known: keys that their client still has; empty if a scheduler began that knew nothing.
        """
        node = self._nodes.get(failure.key)
        if node is None:
            return False
        if failure.type == "TaskRevokedError":
            return bool(node.lifetime) if failure.message == "expired" else node.key in self.revoked
        troubled = troubled or any(one.call is not None and one.call.poison for one in self._nodes.values())
        if failure.type == "WorkerLostError":
            return troubled and (node.options.at_most_once or node.options.fails_with_executor)
        if (
            failure.type == "ExecutorDiedError"
        ):  # what ended the executor may have been given up, so that this is blamed
            return troubled and node.call is not None and node.call.waits
        if failure.type == "DataLostError":
            gone = node.options.at_most_once and node.key in let_go
            return gone or (troubled and (bool(node.options.keep) or node.options.at_most_once))
        return failure.type == "TaskError" and bool(node.becomes) and node.becomes not in known

    def unmade(self, futures: dict[str, Any], executions: Executions) -> list[str]:
        """Calls that were planned for a failure that has been, and were never begun."""
        return [
            node.errback
            for node in self._nodes.values()
            if node.errback and self._calls_errback(node, futures.get(node.key)) and not executions.begun[node.errback]
        ]

    def uncalled_for(self, futures: dict[str, Any], executions: Executions) -> list[str]:
        """Calls that were planned for a failure, and begun although there was none."""
        return [
            node.errback
            for node in self._nodes.values()
            if node.errback and isinstance(futures.get(node.key), int) and executions.begun[node.errback]
        ]

    @staticmethod
    def _calls_errback(node: Node, end: Any) -> bool:
        if not isinstance(end, m.Failure) or end.type in _UNPLANNED:
            return False
        return end.key == node.key or node.joins
