"""A naive cluster around the machine: workers that do what messages say, clients that remember what they were told.

Task values are numbers that depend on the key and on every input, so a wrong, old or mixed-up input shows in the end.
`Cluster.evaluate` computes what each key must come to, without any scheduling.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler import invariants
from futurebroker.scheduler.commands import ClientGone, ClientSaid, Event, Forget, WorkerJoined, WorkerLost, WorkerSaid
from futurebroker.scheduler.machine import SchedulerMachine
from tests.sim.ledger import CommandLedger

FUNCTION = b"f" * 16
PRIME = 2**61 - 1
#: kind of result -> bytes it takes: kept by the scheduler, carried along, left in the store
SIZES = {"kept": 12, "carried": m.KEEP_LIMIT + 1, "stored": m.INLINE_LIMIT + 1}


def value_of(key: str, inputs: list[int]) -> int:
    """What the task ``key`` makes of its inputs."""
    digest = hashlib.blake2b(f"{key}:{inputs}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") % PRIME


def packed(number: int, size: str) -> bytes:
    """A value as it travels."""
    return str(number).encode().ljust(SIZES[size])


@dataclass
class Spec:
    """What a client asked for under a key."""

    dependencies: tuple[str, ...]
    size: str
    options: m.TaskOptions = field(default_factory=m.TaskOptions)
    data: bool = False
    raised: int = 0  #: runs that raised
    lost: bool = False  #: scattered data that may have gone with a worker, or was refused


class NaiveWorker:
    """Reads and reports when told to, so that messages cross in every way."""

    def __init__(self, name: str, resources: dict[str, float], slots: int) -> None:
        self.name = name
        self.info = {"name": name.partition(":")[0], "host": "here", "slots": slots, "resources": resources}
        self.inbox: list[Any] = []
        self.outbox: list[Any] = []
        self.reported: list[Any] = []
        self.runs: dict[str, m.Run] = {}
        self.store: dict[str, int] = {}
        self.freed: set[str] = set()
        self.trusted: set[str] = set()  #: scattered data it was ever sent

    def read(self) -> None:
        """Act on everything that came."""
        inbox, self.inbox = self.inbox, []
        for message in inbox:
            match message:
                case m.Run():
                    self.runs[message.key] = message
                case m.Drop():
                    if (run := self.runs.get(message.key)) is not None and run.attempt == message.attempt:
                        self.outbox.append(m.GaveBack(run.key, run.attempt))
                        self.end(run, made=False)
                case m.GiveBack():
                    for key, attempt in message.tasks:
                        known = self.runs.get(key)
                        if known is not None and known.attempt == attempt and attempt % 3:  # every third has begun
                            self.outbox.append(m.GaveBack(key, attempt))
                            self.end(known, made=False)
                case m.Free():
                    self.freed.update(message.keys)
                    self.sweep()
                case m.Store():
                    self.store[message.key] = int(message.value)
                    self.freed.discard(message.key)
                    self.outbox.append(m.Stored(message.key, len(message.value), f"/{self.name}/{message.key}"))
                case m.AdoptFile():
                    self.outbox.append(m.NotStored(message.key, "another host"))

    def end(self, run: m.Run, *, made: bool) -> None:
        """``run`` is over; those that wait for what it doesn't make are forgotten."""
        del self.runs[run.key]
        if not made:
            for other in list(self.runs.values()):
                if self.runs.get(other.key) is other and run.key in self.awaited(other):
                    self.end(other, made=False)
        self.sweep()

    def awaited(self, run: m.Run) -> list[str]:
        """The inputs that must be made here first."""
        sources = [source for source in run.inputs if isinstance(source, m.Held)]
        return [source.key for source in sources if not source.holders and source.key not in self.store]

    def ready(self) -> list[m.Run]:
        """What can begin now."""
        return [run for run in self.runs.values() if not self.awaited(run)]

    def sweep(self) -> None:
        """Drop what was freed and no run needs."""
        needed = {source.key for run in self.runs.values() for source in run.inputs if isinstance(source, m.Held)}
        for key in self.freed - needed:
            self.store.pop(key, None)
        self.freed &= needed


class Cluster:
    """The machine, a twin of it that must do the same, and everybody around."""

    def __init__(self) -> None:
        self.machine = SchedulerMachine()
        self.twin = SchedulerMachine()
        self.ledger = CommandLedger(self.machine.state)
        self.now = 0.0
        self.specs: dict[str, Spec] = {}
        self.workers: dict[str, NaiveWorker] = {}
        #: client -> key -> KeyFinished, KeyErred or None while it is not over
        self.futures: dict[str, dict[str, Any]] = {}
        self.deaths = 0

    def handle(self, event: Event) -> None:
        """One event, with all laws checked and all commands delivered."""
        self.now += 0.01
        commands = self.machine.handle(event, self.now)
        assert self.twin.handle(event, self.now) == commands
        invariants.check(self.machine.state)
        self.ledger.check(event, commands)
        for command in commands:
            if isinstance(command, Forget):
                continue
            if command.peer in self.workers:
                self.workers[command.peer].inbox.append(command.message)
                if isinstance(command.message, (m.Store, m.AdoptFile)):
                    self.workers[command.peer].trusted.add(command.message.key)
            elif command.peer in self.futures:
                self._told(self.futures[command.peer], command.message)

    def _told(self, futures: dict[str, Any], message: Any) -> None:
        match message:
            case m.KeyFinished(key=key) | m.KeyErred(key=key):
                futures[key] = message
            case m.KeyLost(key=key):
                futures[key] = None
            case m.KeyCancelled(key=key, kind=kind):
                if kind != "duplicate":
                    futures.pop(key, None)

    # -- steps ------------------------------------------------------------------------------------------------------

    def join(self, worker: NaiveWorker) -> None:
        self.workers[worker.name] = worker
        self.handle(WorkerJoined(worker.name, worker.info))

    def lose(self, worker: NaiveWorker, expected: bool) -> None:
        """The worker is gone with everything in it."""
        del self.workers[worker.name]
        self.deaths += not expected
        for key, spec in self.specs.items():
            spec.lost = spec.lost or key in worker.trusted
        self.handle(WorkerLost(worker.name, expected))

    def say(self, client: str, message: m.Message) -> None:
        self.futures.setdefault(client, {})
        self.handle(ClientSaid(client, [message]))

    def leave(self, client: str) -> None:
        del self.futures[client]
        self.handle(ClientGone(client))

    def report(self, worker: NaiveWorker, count: int) -> None:
        """Deliver the oldest ``count`` reports in one envelope."""
        messages, worker.outbox = worker.outbox[:count], worker.outbox[count:]
        for message in messages:
            if isinstance(message, m.NotStored):
                self.specs[message.key].lost = True
        if messages:
            worker.reported = (worker.reported + messages)[-30:]
            self.handle(WorkerSaid(worker.name, messages))

    def run(self, worker: NaiveWorker, run: m.Run) -> None:
        """Run it to its end."""
        inputs: list[int] = []
        missing: list[tuple[str, str]] = []
        for source in run.inputs:
            if isinstance(source, bytes):
                inputs.append(int(source))
            elif not source.holders:
                inputs.append(worker.store[source.key])
            else:
                stores = [self.workers[name].store for name, _ in source.holders if name in self.workers]
                found = [store[source.key] for store in stores if source.key in store]
                inputs.extend(found[:1])
                if not found:
                    missing.extend((source.key, name) for name, _ in source.holders)
        if missing:
            worker.outbox.append(m.InputsMissing(run.key, run.attempt, missing))
            worker.end(run, made=False)
            return
        result, size = value_of(run.key, inputs), run.args.decode()
        value = packed(result, size) if size != "stored" else None
        path = f"/{worker.name}/{run.key}" if size == "stored" else ""
        worker.outbox.append(m.Finished(run.key, run.attempt, SIZES[size], 1000, value, path))
        worker.store[run.key] = result
        worker.freed.discard(run.key)
        worker.end(run, made=True)

    def fail(self, worker: NaiveWorker, run: m.Run) -> None:
        """The task raises."""
        self.specs[run.key].raised += 1
        failure = m.Failure("ValueError", "no", "", run.key, worker.name)
        worker.outbox.append(m.Erred(run.key, run.attempt, failure, 1000))
        worker.end(run, made=False)

    def die(self, worker: NaiveWorker, run: m.Run) -> None:
        """The task ends its executor."""
        self.deaths += 1
        worker.outbox.append(m.ExecutorDied(run.key, run.attempt, "SIGKILL"))
        worker.end(run, made=False)

    # -- the end ----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Everybody works honestly until nothing moves."""
        for _ in range(10_000):
            for worker in list(self.workers.values()):
                worker.read()
                for run in worker.ready():
                    if worker.runs.get(run.key) is run:
                        self.run(worker, run)
                self.report(worker, 5)
            if not any(worker.inbox or worker.outbox or worker.ready() for worker in self.workers.values()):
                return
        raise AssertionError("it never comes to rest")

    def evaluate(self, key: str) -> int:
        """What ``key`` must come to if it comes to anything."""
        spec = self.specs[key]
        return value_of(key, [self.evaluate(name) for name in spec.dependencies])

    def ancestors(self, key: str) -> set[str]:
        """``key`` and all that it is made from."""
        return {key}.union(*(self.ancestors(name) for name in self.specs[key].dependencies))

    def check_outcomes(self) -> None:
        """Every future that somebody still holds has ended as it must, or as it may."""
        for client, futures in self.futures.items():
            for key, end in futures.items():
                assert end is not None, f"{client} never heard of {key}: {self.machine.state.tasks[key]}"
                if isinstance(end, m.KeyErred):
                    self._check_failure(key, end.failure)
                elif end.value is not None:
                    assert int(end.value) == self.evaluate(key), key
                else:
                    self._check_held(key, end.held)

    def _check_failure(self, key: str, failure: m.Failure) -> None:
        assert failure.key in self.ancestors(key), f"{key} failed with {failure}"
        spec = self.specs[failure.key]
        match failure.type:
            case "DataLostError":
                assert spec.data, failure
                assert spec.lost, failure
            case "ValueError":
                assert spec.raised > spec.options.retries, failure
            case _:
                assert self.deaths > self.machine.state.policy.allowed_failures, failure

    def _check_held(self, key: str, held: m.Held | None) -> None:
        assert held is not None
        for name, _ in held.holders:
            if name in self.workers:
                assert self.workers[name].store.get(key) == self.evaluate(key), f"{key} on {name}"
