"""Workers in the simulator: the real machine, with executors, files and clocks that are played."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from futurebroker.protocol import messages as m
from futurebroker.worker import commands as w
from futurebroker.worker.machine import WorkerMachine
from futurebroker.worker.packets import Again, Packet, Result, Task, ValueFile
from tests.sim.agreed import Agreements, Executions
from tests.sim.network import Hub, Line, Weather
from tests.sim.oracle import Call, encode_call, packed, unpacked, value_of
from tests.sim.shared import Sharing
from tests.sim.world import World

BEAT_EVERY = 1.0
PROBE_TIME = 0.001
RESTART_TIME = 0.2


class SimExecutor:
    """Runs packets one after the other; what it was given and has not begun can be taken back.

    A task that waits gives its slot to others, and takes the next that is free.
    """

    def __init__(self, worker: SimWorker, number: int) -> None:
        self.worker = worker
        self.number = number
        self.packets: deque[Packet] = deque()
        self.rest: deque[Task] = deque()
        self.running: Task | None = None
        self.values: dict[int, int] = {}  #: what earlier tasks of the packet came to
        self.away: dict[int, tuple[Task, dict[int, int]]] = {}
        self.returning: deque[Task] = deque()
        self.alive = True

    def go_on(self) -> None:
        """Begin the next task, if there is one."""
        if not self.alive or self.running is not None:
            return
        if self.returning:
            self._resume(self.returning.popleft())
            return
        if not self.rest and self.packets:
            self.rest.extend(self.packets.popleft().tasks)
            self.values.clear()
        if not self.rest:
            return
        task = self.running = self.rest.popleft()
        call = Call.of(task.args)
        lacking = any(isinstance(source, int) and source not in self.values for source in task.inputs)
        if not lacking:
            self.worker.executions.begin(task.key, call, self.worker.world.now)
        if logged := self.worker.sharing.event(self.worker.line.name):
            self.worker.line.near.send(logged)
        if call.says:
            self.worker.line.near.send([m.Said("state", task.key, ["HALF", b"1"])])
        seconds = call.seconds * self.worker.world.random.uniform(0.5, 1.5)
        if lacking:  # it is found out at once, and nothing is run
            self._end(task, call, 0.0, self.values)
            return
        if call.waits:
            self.worker.world.after(seconds / 2, lambda: self._leave(task, call, seconds))
        elif call.poison:
            self.worker.world.after(seconds, lambda: self.die("SIGSEGV", task))
        else:
            self.worker.world.after(seconds, lambda: self._end(task, call, seconds, self.values))

    def _leave(self, task: Task, call: Call, seconds: float) -> None:
        if not self.alive or self.running is not task:
            return
        self.running = None
        self.away[task.number] = (task, dict(self.values))
        self.return_rest()
        self.worker.handle(w.TaskLeft(self.number, task.number))
        self.worker.world.after(2 * seconds, lambda: self._come_back(task, call))
        self.go_on()

    def _come_back(self, task: Task, call: Call) -> None:
        if not self.alive or task.number not in self.away:
            return
        if call.poison and self.running is None:
            if len(self.away) > 1:  # others wait there, and look as guilty
                self.worker.executions.kills += 1
                self.worker.executions.suspected.update(waiting.key for waiting, _ in self.away.values())
            self.die("SIGSEGV")
            return
        self.worker.handle(w.TaskBack(self.number, task.number))
        self.returning.append(task)
        self.go_on()

    def _resume(self, task: Task) -> None:
        _, values = self.away.pop(task.number)
        self.running = task
        call = Call.of(task.args)
        if call.poison:
            self.worker.world.after(0.001, lambda: self.die("SIGSEGV", task))
        else:
            self.worker.world.after(0.001, lambda: self._end(task, call, call.seconds, values))

    def _end(self, task: Task, call: Call, seconds: float, values: dict[int, int]) -> None:
        if not self.alive or self.running is not task:
            return
        self.running = None
        result = self._result(task, call, int(seconds * 1e6), values)
        self.worker.executions.end(task.key, goes_on=result.value is None and not result.path)
        self.worker.handle(w.Reported(self.number, [result]))
        self.go_on()

    def _result(self, task: Task, call: Call, duration: int, values: dict[int, int]) -> Result:
        worker = self.worker
        inputs: list[int] = []
        missing: list[int] = []
        for index, source in enumerate(task.inputs):
            if isinstance(source, int):
                if source not in values:
                    return Result(task.number, 0, not_run=True)
                inputs.append(values[source])
            elif isinstance(source, ValueFile):
                content = worker.readable(source.path)
                if content is None:
                    missing.append(index)
                else:
                    inputs.append(unpacked(content))
            else:
                inputs.append(unpacked(source))
        if missing:
            return Result(task.number, 0, missing=missing)
        retries = task.terms.retries if task.terms is not None else 0
        if retries < call.again:
            # A retry says why, as of Celery tasks; who raises Reschedule doesn't.
            failure = m.Failure("Retry", "not yet", "", call.key, worker.line.name) if retries else None
            options = None if call.moves is None else {"queue": call.moves, "priority": retries}
            again = Again(call.delay, retries + 1, failure=failure, options=options)
            return Result(task.number, duration, duration, again=again)
        if worker.executions.raises(call):
            failure = m.Failure("ValueError", "no", "", call.key, worker.line.name)
            return Result(task.number, duration, duration, failure=failure)
        if call.becomes:
            rest = msgspec.structs.replace(call, becomes="", delivers=True)
            again = Again(0.0, retries, encode_call(rest), [call.becomes])
            return Result(task.number, duration, duration, again=again)
        number = inputs[0] if call.delivers else value_of(call.key, inputs, call.version)
        values[task.number] = number
        value = packed(number, call.size)
        if not call.stored:
            return Result(task.number, duration, duration, len(value), value)
        path = worker.new_path()
        worker.files[path] = value
        return Result(task.number, duration, duration, len(value), path=path)

    def die(self, how: str, during: Task | None = None) -> None:
        """The process ends, in the middle of what it runs."""
        if not self.alive or (during is not None and self.running is not during):
            return
        self.alive = False
        if during is not None and self.away:
            self.worker.executions.kills += 1  # what waits there goes with it
        running = [self.running.number] if self.running is not None else []
        self.worker.handle(w.ExecutorEnded(self.number, running, how))
        self.worker.world.after(RESTART_TIME, self.worker.start_executor)

    def called(self, number: int) -> None:
        """A call out of line has returned."""
        if self.alive:
            self.worker.handle(w.CallEnded(number, b"called", None, self.number))

    def recall(self) -> None:
        numbers = [packet.number for packet in self.packets]
        self.packets.clear()
        self.worker.handle(w.Recalled(self.number, numbers))

    def return_rest(self) -> None:
        if self.alive:
            numbers = [task.number for task in self.rest]
            self.rest.clear()
            self.worker.handle(w.RestReturned(self.number, numbers))


class SimWorker:
    """One incarnation of a worker on one host."""

    def __init__(
        self,
        world: World,
        weather: Weather,
        hub: Hub,
        name: str,
        info: dict[str, Any],
        hosts: dict[str, dict[str, bytes]],
        executions: Executions,
        agreed: Agreements,
        sharing: Sharing,
        dismissed: Callable[[], None],
    ) -> None:
        self.world = world
        #: called when it is told to leave
        self._dismissed = dismissed
        self._slots: int = info["slots"]
        self.executions = executions
        self.sharing = sharing
        self.line = Line(world, weather, hub, name, True, info)
        self.line.near.deliver = lambda messages: self.handle(w.Delivered(messages))
        self.line.on_fresh = self._fresh
        self._described = agreed.described()
        #: by host, the files that processes there can open
        self.host = hosts.setdefault(info["host"], {})
        self.files: dict[str, bytes] = {}
        self.executors: dict[int, SimExecutor] = {}
        self.alive = True
        self.status = "running"
        self._made = 0
        self._outgoing: list[Any] = []
        self._events: deque[Any] = deque()
        self._busy = False
        self._tick_at: float | None = None
        self.machine = WorkerMachine(name, self.new_path)
        self.line.more = lambda: {"standing": self.machine.standing()}
        for _ in range(info["slots"]):
            self.start_executor()
        self.line.near.send(list(self._described))
        self.line.connect()
        self._beat()

    def _fresh(self) -> None:
        self.handle(w.Fresh())
        self.line.near.send(list(self._described))

    def new_path(self, on_disk: bool = False) -> str:
        self._made += 1
        return f"/{self.line.name}/{self._made}"

    def readable(self, path: str) -> bytes | None:
        """The content of a file on this host."""
        return self.files.get(path) or self.host.get(path)

    def start_executor(self) -> None:
        if self.alive and sum(one.alive for one in self.executors.values()) < self._slots:
            self._made += 1
            self.executors[self._made] = SimExecutor(self, self._made)
            self.handle(w.ExecutorReady(self._made, 1))

    def _grow(self, more: int) -> None:
        """There are to be so many executors more, or fewer."""
        self._slots += more
        for _ in range(more):
            self.start_executor()
        self._outgoing.append(m.Said("slots", "", self._slots))

    def crash(self) -> None:
        """Everything ends at once, files included."""
        self.alive = False
        for executor in self.executors.values():
            executor.alive = False
        for path in self.files:
            self.host.pop(path, None)
        self.line.end()

    def drain(self) -> None:
        """Leave in good order: hand back what has not begun, finish the rest, say goodbye."""
        self.status = "closing"
        self.handle(w.Drain())

    def _leave(self) -> None:
        if self.alive:
            self.crash()
            self.line.hub.gone(self.line)

    def _beat(self) -> None:
        if self.alive:
            self.line.beat(self.status)
            self.world.after(BEAT_EVERY, self._beat)

    def handle(self, event: Any) -> None:
        """One event for the machine, and all that its instructions lead to."""
        if not self.alive:
            return
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        while self._events:
            one = self._events.popleft()
            for instruction in self.machine.handle(one, self.world.now):
                self._carry_out(instruction)
        self._busy = False
        outgoing, self._outgoing = self._outgoing, []
        self.line.near.send(outgoing)
        for path, content in self.files.items():
            self.host[path] = content
        self._arm()

    def _arm(self) -> None:
        wake = self.machine.wake_at
        if wake is not None and (self._tick_at is None or wake < self._tick_at):
            self._tick_at = wake
            self.world.at(wake, self._tick)

    def _tick(self) -> None:
        if self._tick_at is not None and self.world.now >= self._tick_at:
            self._tick_at = None
            self.handle(w.Tick())

    def _carry_out(self, instruction: Any) -> None:
        match instruction:
            case w.SendPacket():
                self.world.after(0.0001, lambda: self._give(instruction))
                self.executors[instruction.executor].packets.append(instruction.packet)
            case w.Recall():
                self.executors[instruction.executor].recall()
            case w.AskRest():
                executor = self.executors[instruction.executor]
                self.world.after(0.0005, executor.return_rest)
            case w.Probe():
                found = w.Probed(instruction.key, instruction.path, self.readable(instruction.path) is not None)
                self.world.after(PROBE_TIME, lambda: self.handle(found))
            case w.OpenBulk():
                self.handle(w.BulkInbox(""))  # by the scheduler, as at brokers where a second connection is no use
            case w.TakeFile():
                self.handle(self._take(instruction))
            case w.WritePart():
                self.files[instruction.path] = self.files.get(instruction.path, b"") + instruction.data
                if instruction.last:
                    self.world.after(PROBE_TIME, lambda: self.handle(w.Written(instruction.path)))
            case w.SendPart():
                content = self.files.get(instruction.path)
                nbytes, data = (-1, b"") if content is None else (len(content), content)
                transfer, key, asker = instruction.transfer, instruction.key, instruction.asker
                self._outgoing.append(m.DataPart(transfer, key, instruction.offset, nbytes, data, asker))
            case w.Unlink():
                self.files.pop(instruction.path, None)
                self.host.pop(instruction.path, None)
            case w.CallOut():
                executor = self.executors[instruction.executor]
                self.world.after(0.0005, lambda: executor.called(instruction.number))
            case w.Drained():
                self.world.after(self.world.random.uniform(0, 0.2), self._leave)
            case w.KillExecutor():
                self.executions.kills += 1
                executor = self.executors[instruction.executor]
                self.world.after(0.0005, lambda: executor.die(instruction.how))
            case w.Grow():
                self._grow(instruction.more)
            case w.RecycleExecutor():
                executor = self.executors[instruction.executor]
                self.world.after(0.0005, lambda: executor.die("0"))
            case w.LeaveNow() if self.status != "closing":
                self._dismissed()
                self.drain()
            case w.KeepFunction() | w.LeaveNow() | w.SetRoom():
                pass
            case _:
                self._outgoing.append(instruction)

    def _give(self, instruction: w.SendPacket) -> None:
        self.executors[instruction.executor].go_on()

    def _take(self, instruction: w.TakeFile) -> w.Taken:
        content = self.readable(instruction.path)
        if content is None:
            return w.Taken(instruction.key, instruction.target, "it can't be opened")
        self.files[instruction.target] = content
        return w.Taken(instruction.key, instruction.target, "")
