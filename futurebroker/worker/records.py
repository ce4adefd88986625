"""What the worker's machine remembers of tasks, packets and executors."""

from __future__ import annotations

from enum import Enum

from futurebroker.protocol.messages import Held
from futurebroker.types import Digest, Key


class RunState(Enum):
    """Where a task stands on this worker."""

    WAITING = "waiting"  #: some input isn't here yet
    READY = "ready"  #: can be sent to an executor
    SENT = "sent"  #: in a packet of an executor; perhaps begun
    GONE = "gone"  #: finished, handed back or forgotten


class TaskRecord:
    """One attempt of a task."""

    __slots__ = (
        "args", "attempt", "cost", "dropped", "function", "give_back", "inputs", "key", "missing", "number", "order",
        "packet", "silent", "state",
    )  # fmt: skip

    def __init__(
        self, key: Key, attempt: int, function: Digest, args: bytes, inputs: tuple[bytes | Held, ...], order: int
    ) -> None:
        self.key = key
        self.attempt = attempt
        self.function = function
        self.args = args
        self.inputs = inputs
        self.order = order
        self.state = RunState.WAITING
        self.missing = 0  #: inputs that aren't here; the others are pinned
        self.number = 0  #: in its packet
        self.packet: PacketRecord | None = None
        self.cost = 0  #: microseconds it is expected to take, while it is sent
        self.dropped = False  #: the scheduler doesn't want it any more, and expects GaveBack
        self.give_back = False  #: hand it back if it turns out not to have begun
        self.silent = False  #: nobody expects to hear of it any more

    def __repr__(self) -> str:
        return f"<{self.key} attempt {self.attempt} {self.state.value}>"


class PacketRecord:
    """Tasks an executor got at once."""

    __slots__ = ("executor", "left", "number", "sent_at", "tasks")

    def __init__(self, number: int, executor: ExecutorRecord, tasks: list[TaskRecord], now: float) -> None:
        self.number = number
        self.executor = executor
        self.tasks = tasks
        self.left = len(tasks)  #: not reported or handed back
        self.sent_at = now


class ExecutorRecord:
    """One executor: what it has, and when it was last heard of."""

    __slots__ = ("asked", "expected", "heard", "number", "packets", "threads", "unknown", "unread")

    def __init__(self, number: int, threads: int, now: float) -> None:
        self.number = number
        self.threads = threads
        self.packets: dict[int, PacketRecord] = {}
        self.expected = 0  #: microseconds its unreported tasks should take in all
        self.heard = now  #: when it last reported, or got work while it had none
        self.asked = False  #: to hand back the rest of its packets, since it was last heard of
        self.unread = False  #: whether it may have packets that it hasn't read
        self.unknown = 0  #: tasks among them of which nobody knows how long they take, or that take long
