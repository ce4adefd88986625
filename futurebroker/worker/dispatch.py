"""Which tasks go to which executor, in what packets (sans-IO).

Short tasks travel many in a packet, because a packet costs more than they do; and a busy executor gets one packet
ahead, so that it needn't wait for the agent. A task that takes long, or of which nobody knows how long it takes, goes
alone and only to a free thread: nothing may wait behind it. A task whose missing inputs all come from earlier tasks of
a packet may join that packet. What turns out to wait all the same is taken back: packets by the agent itself, the rest
of a packet that is being run by asking.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from futurebroker.data.objectstore import ObjectStore
from futurebroker.protocol.messages import Held
from futurebroker.types import Digest, Key
from futurebroker.worker.packets import PACKET_BYTES, Packet, Task, ValueFile
from futurebroker.worker.records import ExecutorRecord, PacketRecord, RunState, TaskRecord

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

    def observe(self, function: Digest, cost: int) -> None:
        """A task of ``function`` took ``cost`` microseconds."""
        mean = self._means.get(function)
        self._means[function] = cost if mean is None else mean + (cost - mean) * NEWEST


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
        self._heap: list[tuple[int, int, TaskRecord]] = []
        self._entries = 0
        self._store = store
        self._dependents = dependents
        self._packets = 0
        self._numbers = 0

    def add(self, task: TaskRecord) -> None:
        """``task`` can run."""
        task.state = RunState.READY
        self.ready += 1
        self._entries += 1
        heapq.heappush(self._heap, (task.order, self._entries, task))

    def remove(self, task: TaskRecord) -> None:
        """A ready task that won't run; the caller gives it its next state."""
        self.ready -= 1

    def share(self, executors: Iterable[ExecutorRecord]) -> int:
        """How many of the ready tasks one packet may have, so that every thread gets some."""
        return -(-self.ready // max(1, sum(executor.threads for executor in executors)))

    def next_packet(
        self, executors: Iterable[ExecutorRecord], share: int, now: float
    ) -> tuple[ExecutorRecord, Packet] | None:
        """A packet and who gets it; None when nothing is ready or nobody has room."""
        heap = self._heap
        while heap and heap[0][2].state is not RunState.READY:
            heapq.heappop(heap)
        if not heap:
            return None
        best: ExecutorRecord | None = None
        best_rank = (AHEAD, 0)
        for executor in executors:
            load = len(executor.packets) - executor.threads
            rank = (load, executor.expected)
            if rank < best_rank and (load < 0 or self._may_get_ahead(executor, now)):
                best, best_rank = executor, rank
        if best is None:
            return None
        packet = self._fill(best, best_rank[0] < 0, share, now)
        return None if packet is None else (best, packet)

    def _may_get_ahead(self, executor: ExecutorRecord, now: float) -> bool:
        return not executor.unknown and executor.expected < AHEAD_TIME and now - executor.heard < SILENCE

    def _fill(self, executor: ExecutorRecord, is_free: bool, share: int, now: float) -> Packet | None:
        heap = self._heap
        tasks: list[TaskRecord] = []
        made: dict[Key, int] = {}
        parts: list[Task] = []
        time = size = 0
        budget = PACKET_TIME
        limit = min(PACKET_TASKS, share)
        taken = 0
        while heap and taken < limit and len(tasks) < PACKET_TASKS:
            task = heap[0][2]
            if task.state is not RunState.READY:
                heapq.heappop(heap)
                continue
            cost = self.costs.get(task.function)
            if cost is None or cost > PACKET_TIME:
                if tasks or not is_free:
                    break
                heapq.heappop(heap)
                self.ready -= 1
                self._put(task, -1, tasks, parts, made)
                break
            if tasks and time + cost > budget:
                break
            task_size = len(task.args) + (_size(task.inputs, self._store) if task.inputs else 0)
            if tasks and size + task_size > PACKET_FILL:
                break
            heapq.heappop(heap)
            self.ready -= 1
            taken += 1
            size += task_size
            time += int(cost) + 1
            self._put(task, int(cost) + 1, tasks, parts, made)
            if self._dependents and task.key in self._dependents:
                time, size = self._follow(task, tasks, parts, made, time, size)
        if not tasks:
            return None
        return self._record(executor, tasks, parts, now)

    def _put(
        self, task: TaskRecord, cost: int, tasks: list[TaskRecord], parts: list[Task], made: dict[Key, int]
    ) -> None:
        self._numbers += 1
        number = task.number = self._numbers
        task.cost = cost
        task.state = RunState.SENT
        self.sent[number] = task
        inputs = task.inputs
        tasks.append(task)
        parts.append(Task(number, task.key, task.function, task.args, self._resolve(inputs, made) if inputs else ()))
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
        self, first: TaskRecord, tasks: list[TaskRecord], parts: list[Task], made: dict[Key, int], time: int, size: int
    ) -> tuple[int, int]:
        """Put what depends only on the packet's tasks behind them, as far as it is short."""
        stack = [first]
        while stack and len(tasks) < PACKET_TASKS:
            for task in self._dependents.get(stack.pop().key, ()):
                if task.state is not RunState.WAITING:
                    continue
                cost = self.costs.get(task.function)
                if cost is None or time + cost > PACKET_TIME or len(tasks) >= PACKET_TASKS:
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
                self._put(task, int(cost) + 1, tasks, parts, made)
                stack.append(task)
        return time, size

    def _record(self, executor: ExecutorRecord, tasks: list[TaskRecord], parts: list[Task], now: float) -> Packet:
        self._packets += 1
        record = PacketRecord(self._packets, executor, tasks, now)
        if not executor.packets:
            executor.heard = now
            executor.asked = False
        executor.packets[record.number] = record
        executor.unread = True
        for task in tasks:
            task.packet = record
            if task.cost < 0:
                executor.unknown += 1
            else:
                executor.expected += task.cost
        return Packet(record.number, parts)

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
            several = any(len(packet.tasks) > 1 for packet in executor.packets.values())
            if not several and len(executor.packets) <= executor.threads:
                continue
            if several and not executor.asked and now - executor.heard >= STALL:
                executor.asked = True
                stalled.append(executor)
            at = max(now, executor.heard) + STALL
            look_at = at if look_at is None else min(at, look_at)
        return stalled, look_at

    def take_back(self, number: int) -> TaskRecord | None:
        """The task with this number leaves its packet: reported, handed back or lost. None for an unknown number."""
        task = self.sent.pop(number, None)
        if task is None:
            return None
        packet = task.packet
        assert packet is not None
        task.packet = None
        executor = packet.executor
        if task.cost < 0:
            executor.unknown -= 1
        else:
            executor.expected -= task.cost
        packet.left -= 1
        if not packet.left:
            del executor.packets[packet.number]
        return task


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
