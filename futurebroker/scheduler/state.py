"""Everything the scheduler machine knows, and the few steps that all transitions are made of."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from futurebroker.exceptions import InvalidTransition
from futurebroker.protocol.facts import AnyFact
from futurebroker.protocol.messages import DataWanted, Free, Message
from futurebroker.scheduler.calls import PendingCall, PendingCount
from futurebroker.scheduler.chronicle import Chronicle
from futurebroker.scheduler.commands import Command, Send
from futurebroker.scheduler.graphs import Graphs
from futurebroker.scheduler.lines import Line
from futurebroker.scheduler.moments import Moments
from futurebroker.scheduler.notes import Notes
from futurebroker.scheduler.operations import Note, Operations
from futurebroker.scheduler.published import Metadata, Published
from futurebroker.scheduler.recent import Recent
from futurebroker.scheduler.records import (
    ORDER_BITS,
    ORDER_MASK,
    PRIORITY_MAX,
    ClientRecord,
    Copying,
    FunctionRecord,
    Kind,
    Pool,
    ReadyQueue,
    Relayed,
    StealRequest,
    TaskRecord,
    WorkerRecord,
)
from futurebroker.scheduler.shared import Shared
from futurebroker.scheduler.timers import Timer, Timers
from futurebroker.states import TaskState
from futurebroker.tables import large_table
from futurebroker.types import ClientId, Digest, Key, WorkerId

#: what scattered data counts as in statistics, and tasks of a former scheduler's of which only the key is known
DATA = "data"
FORMER = "former"

RELEASED, WAITING, SCHEDULED, NO_WORKER, QUEUED, PROCESSING, MEMORY, ERRED, FORGOTTEN = TaskState

#: what the names of holders for tasks begin with
FAMILY = "task:"
#: the name of the holder of `SchedulerState.kept`
KEPT = "kept"
#: place in the order of the first task; those before it are for what tasks submit
FIRST_PLACE = 1 << 20
#: states of a task that was asked for and has not ended
UNFINISHED = frozenset((WAITING, SCHEDULED, NO_WORKER, QUEUED, PROCESSING))


@dataclass(frozen=True, slots=True)
class Policy:
    """The machine's settings; times in seconds."""

    allowed_failures: int = 3  #: deaths of executors or workers a task may cause before it fails
    horizon: float = 0.008  #: work a worker is given ahead, at the least
    ahead: int = 512  #: tasks a slot is given ahead, at the most
    bandwidth: float = 100e6  #: bytes a second between hosts, until measured
    local_bandwidth: float = 4e9  #: bytes a second between workers of one host, which map each other's files
    stealing: bool = True  #: whether work is moved to idle workers after it was sent to others
    client_tasks: int = 2_000_000  #: unfinished tasks a client may have; it blocks by itself beyond them
    client_keys: int = 20_000_000  #: keys a client may want at a time, finished or not
    claim_grace: float = 30.0  #: seconds that clients and workers get to meet again at a restarted scheduler
    client_bytes: int = 1 << 30  #: bytes of arguments a client may have unfinished
    allow_shutdown: bool = True  #: whether clients may end the whole cluster
    detached_keep: float = 0.0  #: seconds for which the end is kept of what `fire_and_forget` was called for
    results_kept: int = 250_000  #: results in memory that nobody holds a future of and that are kept all the same
    results_leave: float = 60.0  #: seconds after which these go to the database alone, where there is one


class Claim:
    """A result of a former scheduler's time that somebody may ask for."""

    __slots__ = ("holders", "nbytes", "runners", "since", "value")

    def __init__(self, since: float, nbytes: int) -> None:
        self.since = since
        self.nbytes = nbytes
        self.value: bytes | None = None  #: itself, if it is small
        self.holders: dict[WorkerRecord, str] = {}  #: as of `TaskRecord.holder_paths`
        self.runners: dict[WorkerRecord, Digest] = {}  #: who is still making it, and by which function


class Shelf:
    """What is between the machine and the place of results that have left its memory; see `shelving`."""

    __slots__ = ("leaving", "number", "sought")

    def __init__(self) -> None:
        #: tasks whose rows are being written, with the attempt that is meant
        self.leaving: dict[Key, tuple[TaskRecord, int]] = {}
        self.number = 0
        #: what goes on when it is known which of some keys are there
        self.sought: dict[int, Callable[[], None]] = {}


class SchedulerState:
    """Tasks, functions, workers and clients, with the indexes that decisions need.

    Transitions change it, placement reads it. Commands collect in `commands` and are taken by the machine after each
    event; results to free collect by worker in `frees`, so that a burst becomes one message.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.now = 0.0
        #: when somebody asked how the cluster is
        self.asked_at = 0.0
        #: what the process around the machine tells of itself, for who asks
        self.about: dict[str, Any] = {}
        #: envelopes that were dropped before they came here, by reason
        self.rejected: Mapping[str, int] = {}
        self.tasks: dict[Key, TaskRecord] = large_table()
        self.functions: dict[Digest, FunctionRecord] = {}
        self.kinds: dict[str, Kind] = {}
        self.workers: dict[WorkerId, WorkerRecord] = {}
        self.clients: dict[ClientId, ClientRecord] = {}
        #: wants what `fire_and_forget` was called for, until it ends
        self.detached = ClientRecord("", {})
        #: who called it, for each task wanted so, and is to be told of the end
        self.detachers: dict[TaskRecord, dict[ClientRecord, None]] = {}
        #: who wants keys on behalf of what isn't a client, by what that is: "task:" and a key, and others
        self.holders: dict[str, ClientRecord] = {}
        #: by the key of a task, the holder of what it submitted, as long as it is unfinished; see `families`
        self.families: dict[Key, ClientRecord] = {}
        #: keys that clients want and nobody has submitted; True: only until the shelf was looked at for it
        self.expected: dict[Key, dict[ClientRecord, bool]] = {}
        #: what executors told of their apps, by worker
        self.apps: dict[WorkerId, dict[str, Any]] = {}
        #: schedules, by name; see `beat`
        self.beat: dict[str, Any] = {}
        #: what must be added to `now` for seconds since 1970
        self.clock_offset = 0.0
        #: what clients and tasks share by name; see `leases` and `mailboxes`
        self.shared = Shared()
        self.metadata = Metadata()
        #: bytes a second between hosts, as measured by workers lately
        self.bandwidth = policy.bandwidth
        #: for who looks after the cluster
        self.operations = Operations(self.send)
        self.sequence = FIRST_PLACE
        #: attempts begun so far; their numbers rise through all tasks, so that a key that comes again reuses none
        self.attempts = 0
        #: what was ignored and why (stale completions, unknown keys, ...), and what was stolen
        self.counters: Counter[str] = Counter()
        self._begin_work()
        self._begin_lasting()
        self._begin_looked_up()

    def _begin_work(self) -> None:
        """What is to be done: in this event, when a peer has answered, or at a later time."""
        #: tasks that submitted others and have ended in this event: from which state to which
        self.ended_parents: list[tuple[TaskRecord, TaskState, TaskState]] = []
        #: what the scheduler has to say to itself before this event ends
        self.internal: list[Any] = []
        #: whether workers have changed what they take
        self.requeued = False
        #: encoded options -> the pool of all tasks with these options; see `placement.pool_for`
        self.pools: dict[bytes, Pool] = {}
        #: pools whose queue may hold tasks
        self.ready: dict[Pool, None] = {}
        #: workers that may be given more
        self.roomy: dict[WorkerRecord, None] = {}
        #: workers that have more than they run, and can be asked to hand some of it back
        self.laden: dict[WorkerRecord, None] = {}
        #: what workers were asked to hand back; see `stealing`
        self.requests: dict[WorkerRecord, StealRequest] = {}
        #: workers whose pipeline should be looked at before this event ends
        self.touched: dict[WorkerRecord, None] = {}
        #: tasks that may have become unneeded; looked at by `transitions.settle`
        self.check: list[TaskRecord] = []
        #: (key, worker that is to have a copy) -> who asked for that
        self.copying: dict[tuple[Key, WorkerId], list[Copying]] = {}
        #: new tasks that are to be computed before this event ends
        self.begun: list[TaskRecord] = []
        #: scattered data on its way to one worker, to be copied to all others from there
        self.broadcasts: dict[TaskRecord, None] = {}
        #: what is to happen at a later time
        self.timers = Timers()
        #: results on their way in parts, by who asked and its number for that, and the bytes of them all together
        self.relayed: dict[tuple[str, int], Relayed] = {}
        self.relayed_bytes = 0
        #: requests for parts that wait for others to arrive, by who asked, its number for the transfer, and the offset
        self.relays_waiting: dict[tuple[str, int, int], DataWanted] = {}
        self.commands: list[Command] = []
        self.frees: dict[WorkerRecord, list[Key]] = {}
        self.calls: dict[int, PendingCall] = {}
        self.counts_awaited: list[PendingCount] = []
        self.call_number = 0

    def _begin_lasting(self) -> None:
        """What has to do with the past: what is kept after its end, and what a former scheduler left."""
        #: wants what is kept for whoever asks; see `keeping`
        self.kept = ClientRecord("", {}, KEPT)
        #: seconds to keep -> keys with the time at which they ended, oldest first; see `keeping`
        self.ended: dict[float, Line] = {}
        #: kept tasks that nobody else wants any more, and since when; see `shelving`
        self.leaving: deque[tuple[float, TaskRecord]] = deque()
        #: when to look at these next
        self.leave_at = 0.0
        #: the shelf that takes them, and how far that is; None without a database
        self.shelf: Shelf | None = None
        #: keys that must not be run, and since when; see `revoking`
        self.revoked: dict[Key, float] = {}
        #: stamps (name and value) whose tasks must not be run, and since when
        self.revoked_stamps: dict[tuple[str, str], float] = {}
        #: tasks that must not run twice, and were begun: they run again only when somebody retries them
        self.spent: dict[TaskRecord, None] = {}
        #: ids of results that belong together, by the id they were saved under
        self.groups: dict[str, Any] = {}
        #: published datasets; see `datasets`
        self.published = Published()
        #: finished durable tasks that nobody is told of before their result is stored; see `storing`
        self.untold: dict[TaskRecord, None] = {}
        #: holders of results in this process that run nothing, by name; see `storing`
        self.archives: dict[str, WorkerRecord] = {}
        #: results that workers kept of their time with a former scheduler; see `claims`
        self.claims: dict[Key, Claim] = {}
        #: ERRED tasks of which a client told how they ended in a former scheduler's time: their inputs may not fail now
        self.failures_given: dict[TaskRecord, None] = {}
        #: tasks whose key may have meant other work in a former scheduler's time, so that nothing of it is theirs, but
        #: what the worker of this name or id has, if any
        self.renounced: dict[TaskRecord, str] = {}
        #: NO_WORKER records of keys that only such a worker can have, and since when they wait
        self.awaited: dict[TaskRecord, float] = {}
        #: PROCESSING tasks that were begun for a former scheduler: they need no inputs of ours; see `adoption`
        self.adopted: dict[TaskRecord, None] = {}
        #: looks for claims and records that have waited for too long
        self.claims_timer: Timer | None = None
        #: what must survive and has not been taken by the journal; None without one
        self.facts: list[AnyFact] | None = None
        #: events so far, and the one in which a fact was noted last
        self.happened = self.noted = 0
        #: tasks of which it has to be written that they were sent before they are
        self.guarded: set[Key] = set()
        #: stands for workers of a former scheduler's time, while it isn't known which of them are still there
        self.nowhere: WorkerRecord | None = None
        #: who asked for data that the stand-in holds, and for which
        self.asked_of_nowhere: list[tuple[str, DataWanted]] = []
        #: facts of a journal are applied; what follows from them has been said already
        self.replaying = False
        #: nothing is sent to workers yet, because some of them may run it already
        self.holding = False

    def _begin_looked_up(self) -> None:
        """What people look up: now, or later in the history."""
        #: notes what goes into the history; None without one
        self.chronicle: Chronicle | None = None
        #: when tasks were submitted
        self.moments = Moments()
        #: which of them were submitted together
        self.graphs = Graphs()
        #: runs that have just ended, while somebody looks
        self.recent = Recent()
        #: what executors noted of tasks
        self.notes = Notes()

    def look_at(self, task: TaskRecord) -> None:
        """One fewer wants the task or depends on it: it may be unneeded, or leave for the shelf."""
        if task.wanted_by is None:
            if not task.needed_by:
                self.check.append(task)
        elif task.wanted_by is self.kept and task.state not in UNFINISHED:
            self.leaving.append((self.now, task))

    def holder(self, name: str) -> ClientRecord:
        """Who wants keys on behalf of ``name``; made if there is none."""
        holder = self.holders.get(name)
        if holder is None:
            holder = self.holders[name] = self.kept if name == KEPT else ClientRecord("", {}, name)
            if name.startswith(FAMILY):
                self.families[name.removeprefix(FAMILY)] = holder
        return holder

    def drop_holder(self, name: str) -> None:
        """Nothing is held for ``name`` any more; what only it wanted is let go."""
        holder = self.holders.pop(name, None)
        if holder is None:
            return
        self.families.pop(name.removeprefix(FAMILY), None)
        for task in holder.wants:
            task.discard_client(holder)
            self.look_at(task)

    # -- commands ---------------------------------------------------------------------------------------------------

    def send(self, peer: str, message: Message) -> None:
        """Command: send ``message`` to the client or worker ``peer``."""
        self.commands.append(Send(peer, message))

    def free(self, worker: WorkerRecord, key: Key) -> None:
        """Command, collected: ``worker`` need not hold the result of ``key``."""
        keys = self.frees.get(worker)
        if keys is None:
            self.frees[worker] = [key]
        else:
            keys.append(key)

    def drop_claim(self, key: Key) -> None:
        """A key is made known otherwise than by what workers kept of it: they need not keep that."""
        claim = self.claims.pop(key, None)
        for worker in claim.holders if claim is not None else ():
            self.send(worker.worker_id, Free([key]))  # now: after a Run of the key it would take what that makes

    def send_frees(self) -> None:
        """Command: what was collected for `free`, before what follows."""
        for worker, keys in self.frees.items():
            self.commands.append(Send(worker.worker_id, Free(keys)))
        self.frees = {}

    def take_commands(self) -> list[Command]:
        """All commands since the last call, in order."""
        if self.frees:
            self.send_frees()
        commands, self.commands = self.commands, []
        return commands

    # -- records ----------------------------------------------------------------------------------------------------

    def kind(self, name: str) -> Kind:
        """The statistics of tasks called ``name``."""
        kind = self.kinds.get(name)
        if kind is None:
            kind = self.kinds[name] = Kind(name)
        return kind

    def add_task(
        self,
        key: Key,
        kind: Kind,
        function: FunctionRecord | None,
        args: bytes,
        dependencies: tuple[TaskRecord, ...],
        pool: Pool,
        parent: TaskRecord | None = None,
    ) -> TaskRecord:
        """A new record in state RELEASED, tied to its dependencies.

        Its place in the order is that of its earliest unfinished dependency, so that what was begun is finished before
        more is begun; without one it comes after everything submitted before. What a task submits comes before that
        task's own place, so that the deepest of nested tasks run first and few of them wait.
        """
        self.sequence += 1
        base = self.sequence if parent is None else max(1, (parent.order & ORDER_MASK) - 1)
        for dependency in dependencies:
            if dependency.state in UNFINISHED and dependency.order & ORDER_MASK < base:
                base = dependency.order & ORDER_MASK
        order = base if not pool.options.priority else prioritized(base, pool.options.priority)
        task = TaskRecord(key, kind, function, args, dependencies, pool, order)
        for dependency in dependencies:
            dependency.add_dependent(task)
        kind.counts[RELEASED] += 1
        pool.tasks += 1
        if function is not None:
            function.tasks += 1
        self.tasks[key] = task
        if self.expected:
            self._arrive(task)
        return task

    def _arrive(self, task: TaskRecord) -> None:
        """A key that clients may wait for is there."""
        for client in self.expected.pop(task.key, ()):
            task.add_client(client)

    def drop_task(self, task: TaskRecord) -> None:
        """The record is FORGOTTEN: take it out of every index."""
        del self.tasks[task.key]
        task.args = b""  # it may stand in a client's line for a while
        function = task.function
        self.leave_pool(task)
        if self.spent:
            self.spent.pop(task, None)
        if self.failures_given:
            self.failures_given.pop(task, None)
        if function is None:
            self.broadcasts.pop(task, None)
            self.awaited.pop(task, None)
        else:
            if self.renounced:
                self.renounced.pop(task, None)
            function.tasks -= 1
            if not function.tasks:
                self.drop_function_if_unused(function)

    def close(self) -> None:
        """Let go of all records, which hold each other and are not known to Python's collector; nothing follows."""
        for task in self.tasks.values():
            task.dependencies = ()
            task.function = task.dependents = task.wanted_by = task.worker = task.holders = task.terms = None
        self.tasks.clear()
        # Records that were forgotten still stand in lines, and name their functions.
        for client in (*self.clients.values(), *self.holders.values(), self.detached):
            client.line.clear()
        for function in self.functions.values():
            function.users.clear()
        self.timers = Timers()
        for pool in self.pools.values():
            pool.queue = ReadyQueue()
            pool.stranded.clear()
            pool.eligible.clear()

    def __del__(self) -> None:
        self.close()

    def leave_pool(self, task: TaskRecord) -> None:
        """Take a RELEASED or FORGOTTEN task out of its pool; the last one takes the pool with it."""
        pool = task.pool
        pool.tasks -= 1
        if not pool.tasks:
            del self.pools[pool.token]
            self.ready.pop(pool, None)
            pool.queue = ReadyQueue()  # what left it may stand in it yet, and holds the pool

    def enter_pool(self, task: TaskRecord, pool: Pool) -> None:
        """Put a task that has left its pool into another."""
        task.pool = pool
        pool.tasks += 1
        self.pools[pool.token] = pool

    def drop_function_if_unused(self, function: FunctionRecord) -> None:
        """Forget a function that no task names and no connected client may name."""
        if not (function.tasks or function.users or function.planned):
            self.functions.pop(function.digest, None)

    def move(self, task: TaskRecord, finish: TaskState) -> None:
        """Write the new state, if the table allows the move.

        Raises:
            InvalidTransition: it doesn't; this is a bug.
        """
        start = task.state
        if finish not in LEGAL[start]:
            raise InvalidTransition(task.key, start.value, finish.value, self.story(task))
        counts = task.kind.counts
        counts[start] -= 1
        counts[finish] += 1
        task.state = finish
        if self.families and finish not in UNFINISHED and task.key in self.families:
            self.ended_parents.append((task, start, finish))

    def note(self, task: TaskRecord, what: str, worker: WorkerRecord | None = None) -> None:
        """Remember something unusual for `Client.story`."""
        name = worker.name if worker is not None else ""
        self.operations.notes.append(Note(self.now, task.key, what, name, task.attempt))

    def story(self, task: TaskRecord) -> str:
        """What is known of a task, for an error about it."""
        return (
            f"attempt {task.attempt} on {task.worker}, waiting on {task.waiting_on}, needed by {task.needed_by}, "
            f"wanted by {task.each_client()}, dependencies {task.dependencies}"
        )


def prioritized(base: int, priority: int) -> int:
    """The order of a task with a user's priority."""
    return base - (max(-PRIORITY_MAX, min(priority, PRIORITY_MAX)) << ORDER_BITS)


#: from each state, where a task may go; RELEASED to PROCESSING and MEMORY are scattered data on its way and arrived
LEGAL: dict[TaskState, frozenset[TaskState]] = {
    RELEASED: frozenset((WAITING, SCHEDULED, QUEUED, NO_WORKER, PROCESSING, MEMORY, ERRED, FORGOTTEN)),
    WAITING: frozenset((SCHEDULED, QUEUED, NO_WORKER, PROCESSING, ERRED, RELEASED)),
    SCHEDULED: frozenset((QUEUED, NO_WORKER, WAITING, ERRED, RELEASED)),
    NO_WORKER: frozenset((QUEUED, WAITING, ERRED, RELEASED)),
    QUEUED: frozenset((PROCESSING, NO_WORKER, WAITING, ERRED, RELEASED)),
    PROCESSING: frozenset((MEMORY, ERRED, WAITING, RELEASED)),
    MEMORY: frozenset((RELEASED,)),
    ERRED: frozenset((RELEASED, FORGOTTEN)),
    FORGOTTEN: frozenset(),
}
