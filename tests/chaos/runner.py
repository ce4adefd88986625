"""A chaos run: graphs whose answers are known, faults while they are computed, and the reckoning afterwards."""

from __future__ import annotations

import importlib
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from futurebroker import Client, Future
from tests.chaos.faults import OF_BROKER, OF_SCHEDULER, WEIGHTS, Injector, drawn
from tests.chaos.graph import Node, answers, layered, work
from tests.chaos.ledger import Ledger
from tests.chaos.rabbitmq import RabbitMQ
from tests.chaos.rig import Rig

#: seconds without an accepted result, while some are missing, that count as hung
HUNG_AFTER = 60.0
#: seconds to fetch a result that was said to be there, once something hangs
ENDED_WITHIN = 5.0


@dataclass(frozen=True)
class Plan:
    """What a run is made of; equal plans draw equal graphs and faults."""

    seed: int
    tasks: int = 10_000
    minutes: float = 0.0  #: graphs follow one another for at least so long
    faults: int = 0  #: and until so many faults have been inflicted
    workers: int = 4
    executors: int = 1
    task_seconds: float = 0.02  #: of a task, on average
    pace: float = 1.0  #: seconds between faults, on average
    broker: str | None = None
    own_rabbitmq: bool = False  #: start one, and kill it as well
    with_scheduler: bool = True  #: kill and stop the scheduler as well
    with_client: bool = True  #: cut and hold the client's link as well
    journal: bool = False  #: have the scheduler keep a journal
    peer: str = ""  #: another system in place of ours; see `tests.chaos.peers`
    conduct: dict[str, Any] = field(
        default_factory=lambda: {"suspect_grace": 1.0, "heartbeat_interval": 0.5, "client_grace": 60.0}
    )

    def weights(self) -> dict[str, int]:
        """How often each kind of fault is drawn."""
        weights = dict(WEIGHTS)
        if self.with_scheduler:
            weights |= OF_SCHEDULER
        if not self.with_client:
            weights = {kind: weight for kind, weight in weights.items() if not kind.endswith("client")}
        if self.own_rabbitmq:
            weights |= OF_BROKER if not self.peer else {"kill broker": OF_BROKER["kill broker"]}
        return weights


class Tally:
    """Counts the ends of futures as the client tells them."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.times: list[float] = []
        self._news = threading.Condition()

    def ended(self, future: Future[Any]) -> None:
        """A future's callback."""
        with self._news:
            self.ends[future.key] += 1
            self.times.append(time.monotonic())
            self._news.notify_all()

    def wait(self, count: int) -> bool:
        """Wait for ``count`` keys; False when nothing has come for too long."""
        with self._news:
            while len(self.ends) < count:
                before = len(self.ends)
                if not self._news.wait(HUNG_AFTER) and len(self.ends) == before:
                    return False
            return True


def submit(client: Any, ledger: Ledger, graph: list[Node], tally: Tally) -> list[Future[Any]]:
    """All of a graph, without waiting."""
    futures: list[Future[Any]] = []
    for node in graph:
        inputs = [futures[position] for position in node.inputs]
        future = client.submit(work, ledger.path, node.key, node.seconds, node.padding, *inputs, key=node.key)
        future.add_done_callback(tally.ended)
        futures.append(future)
    return futures


@dataclass
class Reckoning:
    """What became of the tasks of one graph."""

    accepted: int = 0  #: ended once, with the right value
    lost: int = 0
    wrong: int = 0
    hung: int = 0
    errors: list[str] = field(default_factory=list)  #: the first few

    def add(self, future: Future[Any], node: Node, answer: int, tally: Tally, patience: float) -> None:
        """Count one task."""
        try:
            value, padding = future.result(patience)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the task is lost
            self.lost += 1
            self.hung += isinstance(error, TimeoutError)
            self.errors = [*self.errors, f"{node.key}: {type(error).__name__}: {error}"][:5]
            return
        if value != answer or padding != b"x" * node.padding or tally.ends[node.key] != 1:
            self.wrong += 1
        else:
            self.accepted += 1


def compute(client: Any, ledger: Ledger, plan: Plan, number: int) -> tuple[Reckoning, Tally]:
    """One graph, and what came of it."""
    graph = layered(plan.seed + number, plan.tasks, plan.task_seconds, f"g{number}")
    tally = Tally()
    futures = submit(client, ledger, graph, tally)
    finished = tally.wait(len(graph))
    reckoning = Reckoning()
    for future, node, answer in zip(futures, graph, answers(graph)):
        patience = HUNG_AFTER if finished else ENDED_WITHIN if tally.ends[node.key] else 0.0
        reckoning.add(future, node, answer, tally, patience)
    if not finished and isinstance(client, Client):
        missing = next(node.key for node in graph if not tally.ends[node.key])
        reckoning.errors.append(str(client.why(missing)))
    return reckoning, tally


def rig_for(plan: Plan, folder: Path, broker: str | None) -> Any:
    """The cluster that the plan is about."""
    if plan.peer:
        return importlib.import_module(f"tests.chaos.peers.{plan.peer}").make_rig(plan.workers, broker, folder)
    conduct = dict(plan.conduct)
    if plan.journal:
        conduct["storage"] = {"mode": "process", "database": f"sqlite:///{folder}/journal.sqlite"}
    return Rig(plan.workers, executors=plan.executors, broker=broker, **conduct)


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Carry the plan out; the report, as JSON can hold it. ``folder`` takes the ledger."""
    if not plan.own_rabbitmq:
        return _run(plan, folder, plan.broker, None)
    rabbitmq = RabbitMQ()
    try:
        rabbitmq.start()
        return _run(plan, folder, rabbitmq.url, rabbitmq)
    finally:
        rabbitmq.stop()


def _run(plan: Plan, folder: Path, broker: str | None, rabbitmq: RabbitMQ | None) -> dict[str, Any]:
    ledger = Ledger(folder)
    rounds: list[Reckoning] = []
    gaps: list[float] = []
    began = time.monotonic()
    with rig_for(plan, folder, broker) as rig:
        rig.rabbitmq = rabbitmq
        injector = Injector(rig, drawn(plan.seed, plan.pace, plan.weights()))
        with rig.client() as client:
            injector.start()
            try:
                while not rounds or (
                    (time.monotonic() - began < plan.minutes * 60 or len(injector.log) < plan.faults)
                    and not rounds[-1].hung
                    and injector.failure is None
                ):
                    reckoning, tally = compute(client, ledger, plan, len(rounds))
                    rounds.append(reckoning)
                    gaps += [later - earlier for earlier, later in zip(tally.times, tally.times[1:])]
            finally:
                injector.stop()
            info = client.scheduler_info() if isinstance(client, Client) else {"counters": {}}
    if injector.failure is not None:
        raise injector.failure
    seconds = time.monotonic() - began
    return report(plan, rounds, injector, ledger, info, gaps, seconds)


def report(
    plan: Plan,
    rounds: list[Reckoning],
    injector: Injector,
    ledger: Ledger,
    info: dict[str, Any],
    gaps: list[float],
    seconds: float,
) -> dict[str, Any]:
    """The outcome of a run, as JSON can hold it."""
    rows = ledger.rows()
    submitted = plan.tasks * len(rounds)
    counts = {
        "submitted": submitted,
        "accepted": sum(one.accepted for one in rounds),
        "lost": sum(one.lost for one in rounds),
        "wrong": sum(one.wrong for one in rounds),
        "hung": sum(one.hung for one in rounds),
        "executions": len(rows),
        "executed_again": len(rows) - len({key for key, _, _ in rows}),
        "scheduler_counters": info["counters"],
    }
    passed = counts["accepted"] == submitted and not (counts["lost"] or counts["wrong"] or counts["hung"])
    return {
        "passed": passed,
        "system": plan.peer or "futurebroker",
        "seed": plan.seed,
        "tasks": plan.tasks,
        "graphs": len(rounds),
        "seconds": round(seconds, 1),
        "counts": counts,
        "errors": [error for one in rounds for error in one.errors][:5],
        "faults_by_kind": dict(Counter(fault["kind"] for fault in injector.log)),
        "fault_count": len(injector.log),
        "stall_seconds": percentiles(gaps),
        "rerun_seconds": percentiles(reruns(rows, injector.killed)),
        "faults": injector.log,
    }


def reruns(rows: list[tuple[str, int, float]], killed: list[tuple[float, int]]) -> list[float]:
    """For each process that was killed in a task: seconds until that task began again."""
    delays = []
    for at, pid in killed:
        begun = [(position, row) for position, row in enumerate(rows) if row[1] == pid and row[2] <= at]
        if not begun:
            continue
        position, (key, _, _) = begun[-1]
        again = next((time for other, _, time in rows[position + 1 :] if other == key and time > at), None)
        if again is not None:
            delays.append(again - at)
    return delays


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """What a report says of many durations."""
    if len(values) < 2:
        return {"count": len(values), "max": round(max(values, default=0.0), 4)}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    named = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}
    return {"count": len(values), **{name: round(value, 4) for name, value in named.items()}}
