"""Which tasks go to which executor, in what packets (sans-IO).

Short tasks travel many in a packet, because a packet costs more than they do; and a busy executor gets one packet
ahead, so that it needn't wait for the agent. A task that takes long, or of which nobody knows how long it takes, goes
alone and only to a free thread: nothing may wait behind it. A task whose missing inputs all come from earlier tasks of
a packet may join that packet. What turns out to wait all the same is taken back: packets by the agent itself, the rest
of a packet that is being run by asking.
"""

from __future__ import annotations

from collections.abc import Iterable

from futurebroker.data.objectstore import ObjectStore
from futurebroker.protocol.messages import Held
from futurebroker.types import Digest, Key
from futurebroker.worker.packets import PACKET_BYTES, Packet, Result, Task, ValueFile
from futurebroker.worker.records import READY, SENT, WAITING, ExecutorRecord, PacketRecord, ReadyQueue, TaskRecord

#: tasks a packet may have
PACKET_TASKS = 64
#: microseconds the tasks of a packet may take in all
PACKET_TIME = 1000
#: bytes of arguments and inputs after which a packet is full; below what a packet may have encoded
PACKET_FILL = PACKET_BYTES * 3 // 4
#: packets an executor may have beyond its threads
AHEAD = 1
#: microseconds of work an executor may have and still get a packet ahead
AHEAD_TIME = 1500
#: seconds without a report after which a busy executor gets nothing ahead
SILENCE = 0.005
#: seconds without a report after which an executor is asked for the rest of a packet of several tasks
STALL = 0.025
#: microseconds of work an executor must have beyond what it runs for an idle one to be given some of it
WORTH_RECALL = 200
#: weight of the newest duration in the mean of a function
NEWEST = 0.2


class Costs:
    """Mean microseconds of each function's tasks."""

    def __init__(self) -> None:
        self._means: dict[Digest, float] = {}
        self.get = self._means.get

    def observe(self, function: Digest, cost: float, count: int = 1) -> None:
        """``count`` tasks of ``function`` took ``cost`` microseconds each."""
        mean = self._means.get(function)
        self._means[function] = cost if mean is None else mean + (cost - mean) * (1 - (1 - NEWEST) ** count)


class Dispatcher:
    """Tasks that are ready, and the packets made of them.

    Args:
        dependents: the tasks that miss a key, of the machine.
    """

    def __init__(self, store: ObjectStore, dependents: dict[Key, list[TaskRecord]]) -> None:
        self.costs = Costs()
        #: tasks in packets, by number
        self.sent: dict[int, TaskRecord] = {}
        #: how many tasks are ready
        self.ready = 0
        self._queue = ReadyQueue()
        self._store = store
        self._dependents = dependents
        #: tasks that wait for others, by number, and where they run
        self.away: dict[int, ExecutorRecord] = {}
        self._packets = 0
        self._numbers = 0

    def add(self, task: TaskRecord) -> None:
        """``task`` can run."""
        task.state = READY
        self.ready += 1
        self._queue.push(task)

    def remove(self, task: TaskRecord) -> None:
        """A ready task that won't run; the caller gives it its next state."""
        self.ready -= 1

    def share(self, executors: Iterable[ExecutorRecord]) -> int:
        """How many of the ready tasks one packet may have, so that every thread gets some."""
        if self.ready <= 1:
            return self.ready
        return -(-self.ready // max(1, sum(executor.threads for executor in executors)))

    def next_packet(
        self, executors: Iterable[ExecutorRecord], share: int, now: float
    ) -> tuple[ExecutorRecord, Packet] | None:
        """A packet and who gets it; None when nothing is ready or nobody has room."""
        first = self._queue.peek()
        if first is None:
            return None
        best: ExecutorRecord | None = None
        best_rank = (AHEAD, 0)
        for executor in executors:
            load = len(executor.packets) - executor.threads
            rank = (load, executor.expected)
            if rank < best_rank and not executor.leaving and (load < 0 or self._may_get_ahead(executor, now)):
                best, best_rank = executor, rank
        if best is None:
            return None
        cost = self.costs.get(first.function)
        if cost is None or cost > PACKET_TIME or is_bounded(first):
            return (best, self._alone(best, first, now)) if best_rank[0] < 0 else None
        return best, self._fill(best, min(PACKET_TASKS, share), now)

    def _may_get_ahead(self, executor: ExecutorRecord, now: float) -> bool:
        return not executor.unknown and executor.expected < AHEAD_TIME and now - executor.heard < SILENCE

    def _begin(self, executor: ExecutorRecord, now: float) -> PacketRecord:
        """A packet for ``executor``; what follows is `_put` into it, and at least one task is."""
        self._packets += 1
        packet = PacketRecord(self._packets, executor, self._numbers + 1)
        if not executor.packets:
            executor.heard = now
            executor.asked = False
        executor.packets[packet.number] = packet
        executor.unread = True
        return packet

    def _alone(self, executor: ExecutorRecord, task: TaskRecord, now: float) -> Packet:
        """A packet of one task that takes long, or nobody knows how long."""
        packet = self._begin(executor, now)
        parts: list[Task] = []
        self._queue.pop()
        self.ready -= 1
        self._put(task, -1, packet, parts, {})
        packet.count = packet.left = 1
        executor.unknown += 1
        return Packet(packet.number, parts)

    def _fill(self, executor: ExecutorRecord, limit: int, now: float) -> Packet:
        """A packet of the short tasks that are next: ``limit`` of them, and what depends only on those."""
        queue, dependents, put = self._queue, self._dependents, self._put
        line, in_order = queue.line, not queue.heap
        packet = self._begin(executor, now)
        parts: list[Task] = []
        made: dict[Key, int] = {}
        function = b""
        time = size = taken = cost = 0
        while taken < limit and len(parts) < PACKET_TASKS:
            task = (line[0] if line else None) if in_order else queue.peek()
            if task is None:
                break
            if task.state is not READY:
                line.popleft()
                continue
            if task.function != function:
                function = task.function
                mean = self.costs.get(function)
                if mean is None or mean > PACKET_TIME:
                    break
                cost = int(mean) + 1
            if task.terms is not None and is_bounded(task):
                break
            if parts and time + cost > PACKET_TIME:
                break
            size += len(task.args) + (_size(task.inputs, self._store) if task.inputs else 0)
            if size > PACKET_FILL and parts:
                break
            if in_order:
                line.popleft()
            else:
                queue.pop()
            taken += 1
            time += cost
            put(task, cost, packet, parts, made)
            if dependents and task.key in dependents:
                time, size = self._follow(task, packet, parts, made, time, size)
        self.ready -= taken
        packet.count = packet.left = len(parts)
        executor.expected += time
        return Packet(packet.number, parts)

    def _put(self, task: TaskRecord, cost: int, packet: PacketRecord, parts: list[Task], made: dict[Key, int]) -> None:
        number = self._numbers = self._numbers + 1
        task.number = number
        task.cost = cost
        task.state = SENT
        task.packet = packet
        self.sent[number] = task
        inputs = task.inputs
        resolved = self._resolve(inputs, made) if inputs else ()
        parts.append(Task(number, task.key, task.function, task.args, resolved, task.terms))
        if self._dependents:
            made[task.key] = number

    def _resolve(self, inputs: tuple[bytes | Held, ...], made: dict[Key, int]) -> tuple[bytes | ValueFile | int, ...]:
        resolved: list[bytes | ValueFile | int] = []
        for source in inputs:
            if isinstance(source, bytes):
                resolved.append(source)
                continue
            value = self._store.get(source.key)
            if value is None:
                resolved.append(made[source.key])
            else:
                resolved.append(ValueFile(value.path) if value.data is None else value.data)
        return tuple(resolved)

    def _follow(
        self, first: TaskRecord, packet: PacketRecord, parts: list[Task], made: dict[Key, int], time: int, size: int
    ) -> tuple[int, int]:
        """Put what depends only on the packet's tasks behind them, as far as it is short."""
        stack = [first]
        while stack and len(parts) < PACKET_TASKS:
            for task in self._dependents.get(stack.pop().key, ()):
                if task.state is not WAITING:
                    continue
                cost = self.costs.get(task.function)
                if cost is None or time + cost > PACKET_TIME or len(parts) >= PACKET_TASKS or is_bounded(task):
                    return time, size
                task_size = len(task.args) + _size(task.inputs, self._store)
                if size + task_size > PACKET_FILL:
                    return time, size
                if (
                    sum(type(i) is Held and i.key in made and i.key not in self._store for i in task.inputs)
                    < task.missing
                ):
                    continue
                time += int(cost) + 1
                size += task_size
                self._put(task, int(cost) + 1, packet, parts, made)
                stack.append(task)
        return time, size

    def to_recall(self, executors: Iterable[ExecutorRecord], now: float) -> ExecutorRecord | None:
        """Whose unread packets an idle executor should get; None when nobody is idle or there is nothing worth it."""
        if all(len(executor.packets) >= executor.threads for executor in executors):
            return None
        for executor in executors:
            if executor.unread and len(executor.packets) > executor.threads:
                if executor.expected > WORTH_RECALL or now - executor.heard >= STALL:
                    return executor
        return None

    def stalled(self, executors: Iterable[ExecutorRecord], now: float) -> tuple[list[ExecutorRecord], float | None]:
        """Who should hand back the rest of a packet, each once until it is heard of; and when to look again."""
        stalled: list[ExecutorRecord] = []
        look_at: float | None = None
        for executor in executors:
            several = any(packet.count > 1 for packet in executor.packets.values())
            if not several and len(executor.packets) <= executor.threads:
                continue
            if several and not executor.asked and now - executor.heard >= STALL:
                executor.asked = True
                stalled.append(executor)
            at = max(now, executor.heard) + STALL
            look_at = at if look_at is None else min(at, look_at)
        return stalled, look_at

    def mapped_bytes(self) -> int:
        """Bytes of the files that tasks in packets have mapped, or will."""
        keys = {source.key for task in self.sent.values() for source in task.inputs if isinstance(source, Held)}
        values = (self._store.get(key) for key in keys)
        return sum(value.nbytes for value in values if value is not None and value.path)

    def take_reported(self, results: list[Result]) -> list[TaskRecord | None]:
        """The tasks of these results leave their packets; None for an unknown number."""
        pop = self.sent.pop
        tasks = [pop(result.number, None) for result in results]
        for task in tasks:
            if task is not None:
                self._leave(task)
        return tasks

    def take_back(self, number: int) -> TaskRecord | None:
        """The task with this number leaves its packet: handed back or lost. None for an unknown number."""
        task = self.sent.pop(number, None)
        if task is not None:
            self._leave(task)
        return task

    def set_apart(self, task: TaskRecord) -> None:
        """The task with this number waits for others: it runs on, and its executor has room for another."""
        packet = task.packet
        assert packet is not None
        self._leave(task)
        task.packet = None
        task.begun = True
        self.away[task.number] = packet.executor
        packet.executor.away += 1

    def set_back(self, task: TaskRecord, now: float) -> None:
        """A task that was set apart takes a thread of its executor again."""
        executor = self.away.pop(task.number)
        executor.away -= 1
        packet = task.packet = self._begin(executor, now)
        packet.first = task.number
        packet.count = packet.left = 1
        executor.unread = False
        task.cost = -1
        executor.unknown += 1

    def _leave(self, task: TaskRecord) -> None:
        packet = task.packet
        if packet is None:
            self.away.pop(task.number).away -= 1
            return
        executor = packet.executor
        if task.cost < 0:
            executor.unknown -= 1
        else:
            executor.expected -= task.cost
        packet.left -= 1
        if not packet.left:
            del executor.packets[packet.number]


def is_bounded(task: TaskRecord) -> bool:
    """Whether it has a time limit that its executor is ended for: then it has to begin when it is sent."""
    return task.terms is not None and task.terms.hard > 0


def _size(inputs: tuple[bytes | Held, ...], store: ObjectStore) -> int:
    size = 0
    for source in inputs:
        if isinstance(source, bytes):
            size += len(source)
        else:
            value = store.get(source.key)
            if value is not None and value.data is not None:
                size += len(value.data)
    return size
