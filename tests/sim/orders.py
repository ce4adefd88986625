"""What operators order of workers while tasks run, in the simulator: limits, queues, slots, leaving.

A share of the runs with agreements has it, from a chance of its own. What is taken away comes back, so that everything
can end.
"""

from __future__ import annotations

from random import Random
from typing import Any

from futurebroker.scheduler import limits
from futurebroker.scheduler.state import SchedulerState
from tests.sim.oracle import Call

#: share of these runs
SHARE = 0.5
#: what `time_limit` ends, in seconds, and what a task must take to be in danger of it
HARD = 0.3
ENDANGERED = 0.2
#: seconds after which queues are given back
BACK = 3.0
NAMES = ("f", "limited")
WORKERS = ("east", "west", "north", "south")


class Orders:
    """The orders of one run; see the top of this file."""

    def __init__(self, seed: int, active: bool) -> None:
        self._random = Random(f"orders {seed}")
        self.active = active and self._random.random() < SHARE
        #: whether tasks may be ended for the time they take
        self.limits_time = False

    def planned(self) -> list[tuple[float, str, list[str] | None, Any]]:
        """When what is ordered of whom: (seconds, method, names of workers, argument)."""
        if not self.active:
            return []
        random = self._random
        orders: list[tuple[float, str, list[str] | None, Any]] = []
        for _ in range(random.choice((1, 2, 4))):
            at, name = random.uniform(0.1, 4.0), random.choice(WORKERS)
            method = random.choice(("rate_limit", "time_limit", "consumers", "pool_grow", "pool_shrink", "shutdown"))
            if method == "rate_limit":
                orders.append(
                    (at, method, None, [random.choice(NAMES), random.choice((0.0, 5.0, 50.0)), self._chance()])
                )
            elif method == "time_limit":
                self.limits_time = True
                orders.append((at, method, None, [random.choice(NAMES), 0.0, HARD]))
                orders.append((at + BACK, method, None, [random.choice(NAMES), 0.0, 0.0]))
            elif method == "consumers":
                queue = random.choice(("mail", "celery"))
                orders.append((at, random.choice(("add_consumer", "cancel_consumer")), [name], queue))
                orders += [(at + BACK, "add_consumer", None, queue) for queue in ("mail", "celery")]
            elif method == "shutdown":
                orders.append((at, method, [name], None))
            else:
                orders.append((at, method, [name], random.randint(1, 2)))
        return orders

    def pause(self) -> float:
        """Seconds until another worker takes the place of one that was told to leave."""
        return self._random.uniform(0.1, 3.0)

    def may_end(self, call: Call | None) -> bool:
        """Whether a task may have been ended for the time it took."""
        return self.limits_time and call is not None and (call.seconds > ENDANGERED or call.waits or call.poison)

    def _chance(self) -> bool:
        return self._random.random() < 0.5


def limits_told(state: SchedulerState) -> dict[tuple[str, str], Any]:
    """Limits as workers are told them, by kind and name of tasks."""
    calls = state.operations.standing.values()
    return {(call.keep.split()[1], call.keep.split()[2]): limits.values_of(call) for call in calls}


def limits_held(state: SchedulerState) -> dict[tuple[str, str], Any]:
    """The same limits as the scheduler keeps to them."""
    held: dict[tuple[str, str], Any] = {}
    for (kind, name), (_, told) in limits_told(state).items():
        record = state.kind(name)
        if kind == "time_limit":
            held[kind, name] = list(record.limits or ())
        else:
            held[kind, name] = [record.rate.per_second, record.rate.for_all] if record.rate else [0.0, told]
    return held
