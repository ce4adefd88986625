"""A scheduler machine to play with: short ways to say events and to name commands; the laws hold after each event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler import invariants, placement
from futurebroker.scheduler.commands import ClientJoined, ClientSaid, Command, Event, Send, WorkerJoined, WorkerSaid
from futurebroker.scheduler.machine import SchedulerMachine
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import Policy
from tests.sim.ledger import CommandLedger

FUNCTION = b"f" * 16
CODE = m.AddFunction(FUNCTION, "f", b"code")
BIG = b"." * (m.KEEP_LIMIT + 1)
LARGE = m.INLINE_LIMIT + 1


def submit(key: str, *dependencies: str, args: bytes = b"", **options: Any) -> m.Submit:
    """A call; keywords are `TaskOptions`."""
    return m.Submit(FUNCTION, [key], [args], [dependencies], m.TaskOptions(**options) if options else None)


def finished(key: str, attempt: int, value: bytes | None = b"1", path: str = "", seconds: float = 0.001) -> m.Finished:
    """A completion; without a value its result is stored at ``path``."""
    nbytes = LARGE if value is None else len(value)
    return m.Finished(
        key, attempt, nbytes, round(seconds * 1e6), value, path or ("" if value is not None else "/" + key)
    )


def failure(key: str, kind: str = "ValueError") -> m.Failure:
    """What a task raised."""
    return m.Failure(kind, "no", "", key, "w")


class Play:
    """See the top of this file. Commands that give a worker its function are left out of what is returned."""

    def __init__(self, *workers: str, slots: int = 8, **policy: Any) -> None:
        self.machine = SchedulerMachine(Policy(**policy))
        self.state = self.machine.state
        self.now = 0.0
        self.ledger = CommandLedger(self.state)
        self.handle(ClientJoined("ann", {}), ClientJoined("bob", {}))
        self.ann(CODE)
        self.bob(CODE)
        for name in workers:
            self.join(name, slots)

    def __del__(self) -> None:
        self.state.close()  # what is scheduled in it holds it, and nobody can see that

    def handle(self, *events: Event) -> list[Any]:
        """Apply the events; returns all their commands."""
        commands: list[Any] = []
        for event in events:
            some = self.machine.handle(event, self.now)
            invariants.check(self.state)
            self.ledger.check(event, some)
            commands += some
        return [one for one in commands if not (isinstance(one, Send) and isinstance(one.message, m.AddFunction))]

    def join(self, name: str, slots: int = 8, host: str = "h", **resources: float) -> list[Any]:
        """A worker named ``name`` joins."""
        return self.handle(WorkerJoined(name, {"name": name, "host": host, "slots": slots, "resources": resources}))

    def ann(self, *messages: m.Message) -> list[Any]:
        """The client ann says this, in one envelope."""
        return self.handle(ClientSaid("ann", list(messages)))

    def bob(self, *messages: m.Message) -> list[Any]:
        """The client bob says this, in one envelope."""
        return self.handle(ClientSaid("bob", list(messages)))

    def worker(self, name: str, *messages: m.Message) -> list[Any]:
        """A worker reports this, in one envelope."""
        return self.handle(WorkerSaid(name, list(messages)))

    def task(self, key: str) -> TaskRecord:
        """The record of ``key``."""
        return self.state.tasks[key]

    def states(self) -> dict[str, str]:
        """Key -> state, of all that is known."""
        return {key: task.state.value for key, task in self.state.tasks.items()}

    def why(self, key: str) -> str:
        """The explanation a user gets."""
        return placement.explain(self.state, self.task(key))

    def run(self, worker: str, key: str, attempt: int, *inputs: bytes | m.Held) -> Send:
        """The command that sends ``key``."""
        task = self.task(key)
        return Send(worker, m.Run(key, attempt, FUNCTION, task.args, inputs, task.order))


def runs(commands: Sequence[Command]) -> list[tuple[str, str]]:
    """Who was sent which task."""
    return [(one.peer, one.message.key) for one in commands if isinstance(one, Send) and isinstance(one.message, m.Run)]


def tell(client: str, message: m.Message) -> Send:
    """A command to a client."""
    return Send(client, message)
