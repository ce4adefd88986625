"""What the scheduler remembers: tasks, functions, workers, clients, and the pools in which ready tasks wait.

A million tasks must fit into a gigabyte, so a `TaskRecord` has no empty container: what is usually one thing is stored
as that thing, and as a dict only when there are more. Dicts, not sets, wherever order shows: two runs from the same
input make the same decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

import msgspec

from futurebroker.protocol.messages import Failure, Held, PlannedCall, RunTerms, TaskOptions
from futurebroker.scheduler.timers import Timer
from futurebroker.states import TaskState, WorkerStatus
from futurebroker.types import ClientId, Digest, Key, WorkerId

QUEUED = TaskState.QUEUED

#: seconds a task is taken to run while nothing of its kind has ended yet (dask's figure)
UNKNOWN_DURATION = 0.5
#: weight of the newest duration in a kind's mean
NEWEST = 0.1
#: bits of a task's order below the user's priority; with it they make a number that a message can carry
ORDER_BITS = 44
#: priorities count up to here, either way
PRIORITY_MAX = 1 << 18
#: events of a worker that are remembered
EVENTS_KEPT = 100
#: tasks that a client's line has room for beside as many as it wants
GAPS = 1000
ORDER_MASK = (1 << ORDER_BITS) - 1


class TaskRecord(msgspec.Struct, eq=False, gc=False):
    """One task, or one piece of scattered data (which has no function).

    A struct that the cycle collector doesn't know: it would walk every record of a large graph, and a record leaves all
    others when it is dropped, so that counts free it. What is left at the end is taken apart by `SchedulerState.close`.
    """

    key: Key
    kind: Kind  #: statistics of tasks with this name
    function: FunctionRecord | None  #: None for scattered data, which can't be computed again
    args: bytes  #: opaque
    dependencies: tuple[TaskRecord, ...]  #: emptied once the result can't be lost any more
    pool: Pool  #: its options, and where it waits when ready
    order: int  #: smaller runs earlier
    state: TaskState = TaskState.RELEASED
    dependents: TaskRecord | dict[TaskRecord, None] | None = None
    waiting_on: int = 0  #: of an unfinished task: dependencies whose result isn't available
    needed_by: int = 0  #: unfinished dependents
    wanted_by: ClientRecord | dict[ClientRecord, None] | None = None
    worker: WorkerRecord | None = None  #: where it is processing
    attempt: int = 0  #: number of the latest run; only its completion is accepted
    #: seconds it is taken to run, by what was known when it was sent or last looked at; of one that ended and is kept,
    #: when that was
    span: float = 0.0
    holders: WorkerRecord | dict[WorkerRecord, str] | None = None  #: see `holder_paths`
    value: bytes | None = None  #: the result itself, when the scheduler keeps it
    nbytes: int = 0  #: size of the result
    failure: Failure | None = None
    retried: int = 0  #: exceptions answered by another run
    deaths: int = 0  #: executors or workers that ended while they ran it
    terms: Terms | None = None  #: what is agreed beyond its options, if anything is

    def __repr__(self) -> str:
        return f"<{self.key} {self.state.value}>"

    def each_dependent(self) -> Iterator[TaskRecord]:
        """The tasks that name this one as a dependency; safe against changes while iterating."""
        dependents = self.dependents
        if dependents is None:
            return iter(())
        if type(dependents) is TaskRecord:
            return iter((dependents,))
        return iter(tuple(dependents))  # type: ignore[arg-type]

    def add_dependent(self, task: TaskRecord) -> None:
        """Remember that ``task`` depends on this one."""
        dependents = self.dependents
        if dependents is None:
            self.dependents = task
        elif type(dependents) is TaskRecord:
            if dependents is not task:
                self.dependents = {dependents: None, task: None}
        else:
            dependents[task] = None  # type: ignore[index]

    def discard_dependent(self, task: TaskRecord) -> None:
        """``task`` doesn't depend on this one any more."""
        dependents = self.dependents
        if dependents is task:
            self.dependents = None
        elif type(dependents) is dict:
            dependents.pop(task, None)
            if not dependents:
                self.dependents = None

    def each_client(self) -> tuple[ClientRecord, ...]:
        """The clients that want the result."""
        wanted = self.wanted_by
        if wanted is None:
            return ()
        if type(wanted) is ClientRecord:
            return (wanted,)
        return tuple(wanted)  # type: ignore[arg-type]

    def add_client(self, client: ClientRecord) -> None:
        """``client`` wants the result."""
        wanted = self.wanted_by
        if wanted is None:
            self.wanted_by = client
        elif wanted is client:
            return
        elif type(wanted) is ClientRecord:
            self.wanted_by = {wanted: None, client: None}
        elif client in wanted:  # type: ignore[operator]
            return
        else:
            wanted[client] = None  # type: ignore[index]
        client.wanted += 1
        client.line.append(self)

    def discard_client(self, client: ClientRecord) -> None:
        """``client`` doesn't want the result any more."""
        wanted = self.wanted_by
        if wanted is client:
            self.wanted_by = None
        elif type(wanted) is dict and client in wanted:
            del wanted[client]
            if len(wanted) <= 1:  # most are wanted by one or nobody, and a dict is large
                self.wanted_by = next(iter(wanted), None)
        else:
            return
        client.wanted -= 1
        if len(client.line) > 2 * client.wanted + GAPS:
            client.line = client.wants

    def holder_paths(self) -> dict[WorkerRecord, str]:
        """Which workers hold the result, and the path of its file there ('' when it is in the agent's memory)."""
        holders = self.holders
        if holders is None:
            return {}
        if type(holders) is WorkerRecord:
            return {holders: ""}
        return holders  # type: ignore[return-value]

    def add_holder(self, worker: WorkerRecord, path: str) -> None:
        """``worker`` holds the result, at ``path``."""
        if self not in worker.holds:
            worker.holds[self] = None
            worker.nbytes += self.nbytes
            self.kind.nbytes += self.nbytes
        if self.holders is None and not path:
            self.holders = worker
        else:
            self.holders = {**self.holder_paths(), worker: path}

    def discard_holder(self, worker: WorkerRecord) -> None:
        """``worker`` doesn't hold the result any more."""
        if self in worker.holds:
            del worker.holds[self]
            worker.nbytes -= self.nbytes
            self.kind.nbytes -= self.nbytes
        paths = self.holder_paths()
        if worker in paths:
            self.holders = {other: path for other, path in paths.items() if other is not worker} or None

    def held(self) -> Held:
        """Where the stored result lies."""
        paths = {worker: path for worker, path in self.holder_paths().items() if worker.worker_id}
        holders = [(worker.worker_id, path) for worker, path in paths.items()]
        addresses = [worker.address for worker in paths]
        return Held(self.key, self.nbytes, holders, addresses if any(addresses) else [])

    @property
    def needed(self) -> bool:
        """Whether somebody is waiting for the result, or may ask for it at any time."""
        return self.wanted_by is not None or self.needed_by > 0


# A struct's own way to set a field tells the collector, which there is none of here, and the interpreter's short cut
# passes by it: object's is six times as fast.
TaskRecord.__setattr__ = object.__setattr__  # type: ignore[method-assign]
TaskRecord.__delattr__ = object.__delattr__  # type: ignore[method-assign]


class Terms:
    """What few tasks have: a time to run at, a state of their own, calls planned for their failure."""

    __slots__ = (
        "children", "custom", "deals_with", "due", "expires", "failure", "first", "joins", "parent", "planned",
        "request", "retries", "revoked", "stamps", "timer",
    )  # fmt: skip

    def __init__(self) -> None:
        self.due = 0.0  #: time before which it may not run, by the machine's clock; 0 once that has come
        self.expires = 0.0  #: time after which it isn't begun any more, in seconds since 1970; 0: never
        self.timer: Timer | None = None  #: for ``due`` while it is SCHEDULED
        self.retries = 0  #: how often it asked to be run again
        self.request = b""  #: for the executor
        self.parent: Key = ""  #: the task that called it or that it follows
        self.children: list[Key] | None = None  #: tasks whose parent it is
        self.joins = False  #: whether it takes the results of a group
        #: a state that the task gave itself, and what it says of it
        self.custom: tuple[str, bytes] | None = None
        self.failure: Failure | None = None  #: why it is run again
        self.deals_with: Failure | None = None  #: another task's failure, which it was planned for
        self.planned: list[PlannedCall] | None = None  #: calls to make if it fails
        self.revoked = ""  #: why it is given up if it has not begun; empty: it isn't
        #: of a task that goes on with other arguments, what it was submitted with: see `terms.call_of`
        self.first: bytes | None = None
        self.stamps: dict[str, list[str]] | None = None  #: by which it can be revoked


class Kind:
    """What the scheduler knows of all tasks with the same name: how many stand where, and how long they take."""

    __slots__ = ("counts", "duration", "ended", "errors", "inputs", "is_rate_set", "limits", "name", "nbytes", "rate")

    def __init__(self, name: str) -> None:
        self.name = name
        self.duration: float | None = None  #: mean seconds in user code, newest runs first
        self.ended = 0  #: runs that finished or raised
        self.errors = 0  #: runs that raised
        self.rate: Any = None  #: a `rates.Rate`, if runs may not begin at any time
        self.is_rate_set = False  #: whether somebody has said what it is
        self.limits: tuple[float, float] | None = None  #: soft and hard time limit, in place of those submitted
        self.nbytes = 0  #: of results that workers hold, each copy counted
        self.inputs: set[Kind] = set()  #: of what tasks of this kind were made, that needn't be known any more
        self.counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)

    @property
    def expected(self) -> float:
        """Seconds the next run will take, as far as we know."""
        return UNKNOWN_DURATION if self.duration is None else self.duration

    def observe(self, seconds: float) -> None:
        """One more run took ``seconds``."""
        self.ended += 1
        self.duration = seconds if self.duration is None else self.duration + NEWEST * (seconds - self.duration)


class FunctionRecord:
    """A pickled function; sent once to each worker that runs it."""

    __slots__ = ("code", "digest", "kind", "planned", "tasks", "users")

    def __init__(self, digest: Digest, code: bytes, kind: Kind) -> None:
        self.digest = digest
        self.code = code
        self.kind = kind
        self.tasks = 0  #: records that name it
        self.planned = 0  #: calls planned for failures that name it
        self.users: dict[ClientRecord, None] = {}  #: clients that sent it and may submit calls of it


class ReadyQueue:
    """Ready tasks, smallest order first, equal ones in the order they came.

    Most arrive in order and stand in a deque; only the others pay for a heap. A task that left (cancelled, sent) stays
    in its place until it comes to the front and is skipped there.
    """

    __slots__ = ("_count", "_heap", "_line")

    def __init__(self) -> None:
        self._line: deque[TaskRecord] = deque()
        self._heap: list[tuple[int, int, TaskRecord]] = []
        self._count = 0

    def push(self, task: TaskRecord) -> None:
        """Add a task whose state is QUEUED."""
        line = self._line
        if not line or line[-1].order <= task.order:
            line.append(task)
        else:
            self._count += 1
            heappush(self._heap, (task.order, self._count, task))

    def peek(self) -> TaskRecord | None:
        """The task that is next; None when there is none."""
        line, heap = self._line, self._heap
        while line and line[0].state is not QUEUED:
            line.popleft()
        if not heap:
            return line[0] if line else None
        while heap and heap[0][2].state is not QUEUED:
            heappop(heap)
        if heap and (not line or heap[0][0] < line[0].order):
            return heap[0][2]
        return line[0] if line else None

    def pop(self) -> None:
        """Take away what `peek` returned."""
        line, heap = self._line, self._heap
        if heap and (not line or heap[0][0] < line[0].order):
            heappop(heap)
        else:
            line.popleft()

    @property
    def length(self) -> int:
        """How many stand in it, counting those that left and are not yet skipped."""
        return len(self._line) + len(self._heap)

    def __iter__(self) -> Iterator[TaskRecord]:
        seen: dict[TaskRecord, None] = dict.fromkeys(self._line)
        seen.update(dict.fromkeys(task for _, _, task in self._heap))
        return (task for task in seen if task.state is TaskState.QUEUED)


class Pool:
    """Tasks with the same restrictions: which workers may run them, and the ready ones in order."""

    __slots__ = (
        "at_most_once",
        "eligible",
        "options",
        "queue",
        "resources",
        "restricted",
        "stranded",
        "tasks",
        "terms",
        "token",
    )

    def __init__(self, token: bytes, options: TaskOptions) -> None:
        self.token = token  #: what `SchedulerState.pools` knows it by
        self.options = options
        self.resources: dict[str, float] = options.resources or {}  #: amounts each of its tasks takes while it runs
        #: whether not every worker will do, or not at any time; see `placement.refresh_eligible`
        self.at_most_once = options.at_most_once
        self.restricted = bool(options.workers or options.resources)
        #: of runs of its tasks, but for those that have terms of their own
        self.terms = (
            RunTerms(soft=options.soft_time_limit, hard=options.time_limit)
            if options.time_limit or options.soft_time_limit
            else None
        )
        self.queue = ReadyQueue()
        self.eligible: dict[WorkerRecord, None] = {}  #: connected workers that may run these tasks
        self.stranded: dict[TaskRecord, None] = {}  #: NO_WORKER tasks
        self.tasks = 0  #: records that belong to it


class StealRequest:
    """Tasks a worker was asked to hand back, or, without any, that it need not be asked again for a moment."""

    __slots__ = ("asked", "given", "patience", "until")

    def __init__(self, asked: dict[TaskRecord, tuple[int, WorkerRecord]], until: float, patience: float) -> None:
        self.asked = asked  #: with the attempt meant, and the worker it was asked for
        self.given = 0  #: how many of them came back
        self.until = until  #: when the worker may be asked again, if they are not all gone from it before
        self.patience = patience  #: seconds that was after the request


class Relayed:
    """A result on its way, in parts, from who holds it to who asked."""

    __slots__ = ("asked", "got", "holder", "key")

    def __init__(self, key: Key, holder: WorkerId, got: int) -> None:
        self.key = key
        self.holder = holder
        self.asked = self.got = got  #: bytes of it that were asked for, and that have arrived

    def arrive(self, got: int) -> int:
        """``got`` bytes have arrived in all; by how many fewer are on their way."""
        before, self.got = self.got, max(self.got, min(got, self.asked))
        return self.got - before


class WorkerRecord:
    """One connected worker: what it offers, does and holds."""

    __slots__ = (
        "address",
        "bandwidth",
        "changing",
        "events",
        "functions",
        "holds",
        "host",
        "info",
        "latency",
        "limit",
        "metrics",
        "name",
        "nbytes",
        "occupancy",
        "pipeline",
        "processing",
        "queues",
        "resources",
        "away",
        "slots",
        "soft_time_limit",
        "status",
        "time_limit",
        "used",
        "watched",
        "window",
        "worker_id",
    )

    def __init__(self, worker_id: WorkerId, info: dict[str, Any]) -> None:
        self.worker_id = worker_id
        self.name = str(info.get("name") or worker_id)
        self.host = str(info.get("host") or "")
        self.address = str(info.get("data") or "")  #: where it serves its values
        self.slots = max(1, int(info.get("slots") or 1))  #: tasks it runs at a time
        self.resources = {str(name): float(amount) for name, amount in (info.get("resources") or {}).items()}
        self.used: dict[str, float] = {}  #: resources taken by what is processing
        #: queues it takes tasks from; None: all
        self.queues: dict[str, None] | None = None if info.get("queues") is None else dict.fromkeys(info["queues"])
        #: seconds that tasks of apps may run if nothing else is said; 0: any time
        self.time_limit = float(info.get("time_limit") or 0.0)
        self.soft_time_limit = float(info.get("soft_time_limit") or 0.0)
        self.info = info
        self.status = WorkerStatus.RUNNING
        self.processing: dict[int, TaskRecord] = {}  #: by attempt: sent and not reported back, in the order sent
        self.away: dict[TaskRecord, None] = {}  #: of these, the tasks that wait for others and take no slot
        self.occupancy = 0.0  #: seconds of work sent and not reported back
        self.holds: dict[TaskRecord, None] = {}  #: results in its store
        self.nbytes = 0  #: of these
        self.functions: set[Digest] = set()  #: functions it has been sent
        self.pipeline: deque[TaskRecord] = deque()  #: tasks that may follow what is processing here, when there is room
        self.bandwidth = 0.0  #: bytes a second at which results come to it from other hosts; 0: not measured
        self.latency = 0.001  #: seconds of a round trip
        self.window = 0.0  #: seconds of work it may have in all; see `placement.open_window`
        self.limit = 0  #: tasks it may have in all
        self.changing = False  #: whether its executors are about to be replaced: it gets no task before that is done
        self.metrics: dict[str, Any] = {}  #: of its last heartbeat
        #: what it told of its memory: (seconds since 1970, kind, text)
        self.events: deque[tuple[float, str, str]] = deque(maxlen=EVENTS_KEPT)
        #: attempts that were its oldest at the last heartbeat, as many as run -> when they were first seen so
        self.watched: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<worker {self.name} {self.status.value}>"

    def answers_to(self, name: str) -> bool:
        """Whether ``workers=name`` means this worker: its name, its id or its host."""
        return name in (self.name, self.worker_id, self.host)


class Copying:
    """A client's request for copies of results, and those that are still to come."""

    __slots__ = ("client", "failed", "missing", "number")

    def __init__(self, client: ClientId, number: int) -> None:
        self.client = client
        self.number = number
        #: (key, worker that is to have it) -> the worker that needs it no longer then; empty: none
        self.missing: dict[tuple[Key, WorkerId], WorkerId] = {}
        self.failed = 0


class ClientRecord:
    """One connected client, or one of the scheduler's own that hold keys on behalf of nobody connected."""

    __slots__ = ("client_id", "functions", "holds_for", "info", "line", "wanted")

    def __init__(self, client_id: ClientId, info: dict[str, Any], holds_for: str = "") -> None:
        self.client_id = client_id  #: empty for one of the scheduler's own
        self.holds_for = holds_for  #: of one of the scheduler's own, what its keys are kept for
        self.info = info
        self.wanted = 0  #: results it wants
        #: their tasks in the order it came to want them, among others that it wants no more: at a million tasks a dict
        #: would cost a fifth of a task's time in the scheduler
        self.line: list[TaskRecord] = []
        self.functions: dict[Digest, None] = {}

    def __repr__(self) -> str:
        return f"<client {self.client_id or self.holds_for}>"

    @property
    def wants(self) -> list[TaskRecord]:
        """The tasks whose results it wants."""
        return list(dict.fromkeys([task for task in self.line if self in task.each_client()]))
