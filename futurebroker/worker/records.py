"""What the worker's machine remembers of tasks, packets and executors, and in which order ready tasks stand."""

from __future__ import annotations

from collections import deque
from enum import Enum
from heapq import heappop, heappush

import msgspec

from futurebroker.protocol.messages import Held, RunTerms
from futurebroker.types import Digest, Key


class RunState(Enum):
    """Where a task stands on this worker."""

    WAITING = "waiting"  #: some input isn't here yet
    READY = "ready"  #: can be sent to an executor
    SENT = "sent"  #: in a packet of an executor; perhaps begun
    GONE = "gone"  #: finished, handed back or forgotten


#: looking a member up in its enum costs more than all else that is done with it
WAITING, READY, SENT, GONE = RunState.WAITING, RunState.READY, RunState.SENT, RunState.GONE


class TaskRecord(msgspec.Struct, eq=False):
    """One attempt of a task. A Struct, because it is made in a tenth of the time of a class with slots."""

    key: Key
    attempt: int
    function: Digest
    args: bytes
    inputs: tuple[bytes | Held, ...]
    order: int
    terms: RunTerms | None = None
    state: RunState = WAITING
    missing: int = 0  #: inputs that aren't here; the others are pinned
    number: int = 0  #: in its packet
    packet: PacketRecord | None = None  #: the last it was put in
    cost: int = 0  #: microseconds it is expected to take, while it is sent
    dropped: bool = False  #: the scheduler doesn't want it any more, and expects GaveBack
    give_back: bool = False  #: hand it back if it turns out not to have begun
    silent: bool = False  #: nobody expects to hear of it any more
    begun: bool = False  #: known to have begun: it gave up its slot
    overdue: bool = False  #: it ran longer than it may, and its executor is being ended for that

    def __repr__(self) -> str:
        return f"<{self.key} attempt {self.attempt} {self.state.value}>"


class PacketRecord:
    """Tasks an executor got at once; their numbers follow one another."""

    __slots__ = ("count", "executor", "first", "left", "number")

    def __init__(self, number: int, executor: ExecutorRecord, first: int) -> None:
        self.number = number
        self.executor = executor
        self.first = first  #: number of its first task
        self.count = 0
        self.left = 0  #: not reported or handed back

    @property
    def numbers(self) -> range:
        """Of its tasks, those that have left it too."""
        return range(self.first, self.first + self.count)


class ReadyQueue:
    """Ready tasks, smallest order first, equal ones in the order they came.

    Most arrive in order and stand in a deque; only the others pay for a heap. A task that left (sent, dropped) stays in
    its place until it comes to the front and is skipped there.
    """

    __slots__ = ("_count", "heap", "line")

    def __init__(self) -> None:
        self.line: deque[TaskRecord] = deque()
        self.heap: list[tuple[int, int, TaskRecord]] = []
        self._count = 0

    def push(self, task: TaskRecord) -> None:
        """Add a task whose state is READY."""
        line = self.line
        if not line or line[-1].order <= task.order:
            line.append(task)
        else:
            self._count += 1
            heappush(self.heap, (task.order, self._count, task))

    def peek(self) -> TaskRecord | None:
        """The task that is next; None when there is none."""
        line, heap = self.line, self.heap
        while line and line[0].state is not READY:
            line.popleft()
        while heap and heap[0][2].state is not READY:
            heappop(heap)
        if heap and (not line or heap[0][0] < line[0].order):
            return heap[0][2]
        return line[0] if line else None

    def pop(self) -> None:
        """Take away what `peek` returned."""
        line, heap = self.line, self.heap
        if heap and (not line or heap[0][0] < line[0].order):
            heappop(heap)
        else:
            line.popleft()


class ExecutorRecord:
    """One executor: what it has, and when it was last heard of."""

    __slots__ = (
        "asked",
        "away",
        "condemned",
        "expected",
        "heard",
        "leaving",
        "number",
        "packets",
        "threads",
        "unknown",
        "unread",
    )

    def __init__(self, number: int, threads: int, now: float) -> None:
        self.number = number
        self.threads = threads
        self.packets: dict[int, PacketRecord] = {}
        self.expected = 0  #: microseconds its unreported tasks should take in all
        self.heard = now  #: when it last reported, or got work while it had none
        self.asked = False  #: to hand back the rest of its packets, since it was last heard of
        self.unread = False  #: whether it may have packets that it hasn't read
        self.leaving = False  #: being replaced: it gets nothing more
        self.condemned = False  #: it is being ended for a task that must not go on
        self.away = 0  #: tasks in it that wait for others, or have seceded
        self.unknown = 0  #: tasks among them of which nobody knows how long they take, or that take long
