"""A small cluster in virtual time, for asking how long a load takes: the real scheduler machine, plain workers.

Nothing is lost and nothing is random here. A worker fetches inputs as tasks arrive, one at a time, and a holder gives
one at a time; ready tasks run in their order on its slots; what has not begun is handed back on request.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from futurebroker.protocol import messages as m
from futurebroker.scheduler import invariants
from futurebroker.scheduler.commands import ClientJoined, ClientSaid, Event, Send, WorkerBeat, WorkerJoined, WorkerSaid
from futurebroker.scheduler.machine import SchedulerMachine
from futurebroker.scheduler.state import Policy
from tests.sim.ledger import CommandLedger

LATENCY = 0.0005
BANDWIDTH = 100e6
BEAT_EVERY = 1.0
#: what is waited for at most
END = 1000.0


@dataclass
class Work:
    """One task as it really is; the scheduler knows its function's name only."""

    seconds: float
    nbytes: int = 100  #: of its result; more than the scheduler carries stays on the worker
    dependencies: tuple[str, ...] = ()
    kind: str = "work"
    options: m.TaskOptions | None = None


@dataclass
class PlainWorker:
    """See the top of this file."""

    name: str
    slots: int
    tasks: dict[str, m.Run] = field(default_factory=dict)
    arriving: dict[str, int] = field(default_factory=dict)  #: key -> inputs that are on their way, or made here
    ready: list[tuple[int, int, str]] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    fetch_free_at: float = 0.0
    give_free_at: float = 0.0


class SkewedCluster:
    """Submit work, then `run` it: the figures are virtual seconds."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.machine = SchedulerMachine(policy)
        self.ledger = CommandLedger(self.machine.state)
        self.now = 0.0
        self.works: dict[str, Work] = {}
        self.workers: dict[str, PlainWorker] = {}
        self.ran: dict[str, str] = {}  #: key -> the worker that finished it
        self.ended: dict[str, float] = {}  #: key -> when
        self.moved: Counter[str] = Counter()  #: key -> how often it was handed back
        self._functions: dict[str, bytes] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._apply(ClientJoined("ann", {}))

    def join(self, name: str, slots: int = 1, at: float = 0.0) -> None:
        """A worker on a host of its own joins at some time."""

        def arrive() -> None:
            self.workers[name] = PlainWorker(name, slots)
            self._apply(WorkerJoined(name, {"name": name, "host": f"host-{name}", "slots": slots}))
            self._beat(name)

        self._after(at - self.now, arrive)

    def submit(self, works: dict[str, Work]) -> None:
        """All of it at once."""
        self.works.update(works)
        messages: list[m.Message] = []
        for key, work in works.items():
            if work.kind not in self._functions:
                digest = self._functions[work.kind] = work.kind.encode().ljust(16)
                messages.append(m.AddFunction(digest, work.kind, b""))
            digest = self._functions[work.kind]
            messages.append(m.Submit(digest, [key], [b""], [work.dependencies], work.options))
        self._after(0.0, lambda: self._apply(ClientSaid("ann", messages)))

    def run(self) -> float:
        """Until all that was submitted has ended; returns how long that took."""
        begun = self.now
        while self.works.keys() - self.ran.keys():
            self.now, _, call = heapq.heappop(self._heap)
            assert self.now < END, "it never ends"
            call()
        return self.now - begun

    def stolen(self) -> int:
        """How many tasks were moved so far."""
        return self.machine.state.counters["stolen"]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + max(0.0, seconds), self._count, call))

    def _apply(self, event: Event) -> None:
        commands = self.machine.handle(event, self.now)
        if self._count % 16 == 0:  # the laws walk over everything
            invariants.check(self.machine.state)
        self.ledger.check(event, commands)
        for command in commands:
            if isinstance(command, Send) and command.peer in self.workers:
                worker, message = self.workers[command.peer], command.message
                self._after(LATENCY, partial(self._hear, worker, message))

    def _beat(self, name: str) -> None:
        self._apply(WorkerBeat(name, "running", {}, 2 * LATENCY))
        self._after(BEAT_EVERY, lambda: self._beat(name))

    def _say(self, worker: PlainWorker, message: m.Message) -> None:
        self._after(LATENCY, lambda: self._apply(WorkerSaid(worker.name, [message])))

    def _hear(self, worker: PlainWorker, message: m.Message) -> None:
        match message:
            case m.Run():
                self._take(worker, message)
            case m.GiveBack():
                for key, attempt in message.tasks:
                    run = worker.tasks.get(key)
                    if run is not None and run.attempt == attempt and key not in worker.running:
                        self._forget(worker, key)
                        self.moved[key] += 1
                        self._say(worker, m.GaveBack(key, attempt))
            case m.Drop(key=key) if key in worker.tasks:
                self._forget(worker, key)
        self._begin(worker)

    def _forget(self, worker: PlainWorker, key: str) -> None:
        del worker.tasks[key]
        for other in [one.key for one in worker.tasks.values() if key in self.works[one.key].dependencies]:
            if other not in worker.running:
                self._forget(worker, other)

    def _take(self, worker: PlainWorker, run: m.Run) -> None:
        worker.tasks[run.key] = run
        missing = 0
        for source in self._away(worker, run.inputs):
            missing += 1
            if source.holders:
                holder = self.workers[source.holders[0][0]]
                at = max(self.now, worker.fetch_free_at, holder.give_free_at) + source.nbytes / BANDWIDTH
                worker.fetch_free_at = holder.give_free_at = at
                self._after(at - self.now, lambda: self._arrived(worker, run))
        worker.arriving[run.key] = missing
        if not missing:
            heapq.heappush(worker.ready, (run.order, run.attempt, run.key))

    def _away(self, worker: PlainWorker, inputs: Iterable[bytes | m.Held]) -> list[m.Held]:
        return [source for source in inputs if isinstance(source, m.Held) and source.key not in worker.made]

    def _arrived(self, worker: PlainWorker, run: m.Run) -> None:
        if worker.tasks.get(run.key) is run:
            worker.arriving[run.key] -= 1
            if not worker.arriving[run.key]:
                heapq.heappush(worker.ready, (run.order, run.attempt, run.key))
                self._begin(worker)

    def _begin(self, worker: PlainWorker) -> None:
        while worker.ready and len(worker.running) < worker.slots:
            _, attempt, key = heapq.heappop(worker.ready)
            run = worker.tasks.get(key)
            if run is not None and run.attempt == attempt and key not in worker.running:
                worker.running[key] = attempt
                self._after(self.works[key].seconds, partial(self._end, worker, run))

    def _end(self, worker: PlainWorker, run: m.Run) -> None:
        key, work = run.key, self.works[run.key]
        del worker.running[key], worker.tasks[key]
        assert key not in self.ran, f"{key} ran twice"
        self.ran[key] = worker.name
        self.ended[key] = self.now
        worker.made[key] = path = f"/{worker.name}/{key}"
        inline = work.nbytes <= m.INLINE_LIMIT
        value = b"." * work.nbytes if inline else None
        report = m.Finished(key, run.attempt, work.nbytes, round(work.seconds * 1e6), value, "" if inline else path)
        self._say(worker, report)
        for other in list(worker.tasks.values()):
            if key in self.works[other.key].dependencies and other.key not in worker.running:
                self._arrived(worker, other)
        self._begin(worker)
