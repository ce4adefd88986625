"""A worker's surroundings for its machine: executors that run when the test says so, files by name, and a mailbox."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Any

from futurebroker.protocol.messages import Failure, Held, Message, Run
from futurebroker.worker import commands
from futurebroker.worker.invariants import check
from futurebroker.worker.machine import WorkerMachine
from futurebroker.worker.memory import UNLIMITED, MemoryPlan
from futurebroker.worker.packets import Packet, Result, Task

INC = b"increment-digest"
SLEEP = b"sleeping--digest"


def run(key: str, *inputs: bytes | Held, attempt: int = 1, function: bytes = INC, order: int = 0) -> Run:
    """A task as the scheduler sends it."""
    return Run(key, attempt, function, b"arguments", inputs, order)


def failure(key: str) -> Failure:
    """A task's exception."""
    return Failure("ValueError", "no", "Traceback", key, "w")


class FakeExecutor:
    """Packets it hasn't read, and the one it runs; a test moves it on."""

    def __init__(self) -> None:
        self.unread: deque[Packet] = deque()
        self.todo: deque[Task] = deque()
        self.done: set[int] = set()
        self.running: Task | None = None
        #: tasks that gave up their slot
        self.away: list[Task] = []
        self.asked = False


class World:
    """Carries out what the machine says, as the agent would; checks the machine's laws after every event."""

    def __init__(self, executors: int = 1, threads: int = 1, plan: MemoryPlan = UNLIMITED) -> None:
        names = count(1)
        self.machine = WorkerMachine(
            "w", lambda disk: f"/disk/{next(names)}.sealed" if disk else f"/store/{next(names)}", plan
        )
        self.now = 100.0
        #: messages to the scheduler, in order
        self.mail: list[Message] = []
        #: what else the machine said
        self.said: list[Any] = []
        self.executors: dict[int, FakeExecutor] = {}
        #: where parts can be sent to past the scheduler; empty: nowhere; None: it takes its time to say
        self.bulk: str | None = ""
        #: files that can be opened on this host
        self.host_files: set[str] = set()
        self.threads = threads
        self._events: deque[Any] = deque()
        for _ in range(executors):
            self.start_executor()

    def start_executor(self) -> int:
        """Another executor is ready."""
        number = len(self.executors) + 1
        while number in self.executors:
            number += 1
        self.executors[number] = FakeExecutor()
        self.do(commands.ExecutorReady(number, self.threads))
        return number

    def deliver(self, *messages: Message) -> list[Message]:
        """The scheduler says this; what it is answered."""
        return self.do(commands.Delivered(list(messages)))

    def do(self, event: Any) -> list[Message]:
        """The machine handles ``event``; the messages that come of it."""
        before = len(self.mail)
        self._events.append(event)
        while self._events:
            for instruction in self.machine.handle(self._events.popleft(), self.now):
                self._carry_out(instruction)
            check(self.machine)
        return self.mail[before:]

    def _carry_out(self, instruction: Any) -> None:
        if isinstance(instruction, Message):
            self.mail.append(instruction)
            return
        self.said.append(instruction)
        if isinstance(instruction, commands.SendPacket):
            self.executors[instruction.executor].unread.append(instruction.packet)
        elif isinstance(instruction, commands.Recall):
            unread = self.executors[instruction.executor].unread
            self._events.append(commands.Recalled(instruction.executor, [packet.number for packet in unread]))
            unread.clear()
        elif isinstance(instruction, commands.AskRest):
            self.executors[instruction.executor].asked = True
        elif isinstance(instruction, commands.Probe):
            ok = instruction.path in self.host_files
            self._events.append(commands.Probed(instruction.key, instruction.path, ok))
        elif isinstance(instruction, commands.WritePart) and instruction.last:
            self._events.append(commands.Written(instruction.path))
        elif isinstance(instruction, commands.OpenBulk) and self.bulk is not None:
            self._events.append(commands.BulkInbox(self.bulk))
        elif isinstance(instruction, commands.TakeFile):
            reason = "" if instruction.path in self.host_files else "not here"
            self._events.append(commands.Taken(instruction.key, instruction.target, reason))

    # -- executors, moved on by hand --------------------------------------------------------------------------------

    def begin(self, number: int) -> Task | None:
        """An executor begins its next task, reading a packet if it must."""
        executor = self.executors[number]
        if executor.running is None:
            if not executor.todo and executor.unread:
                executor.todo.extend(executor.unread.popleft().tasks)
                executor.done = set()
            if executor.todo:
                executor.running = executor.todo.popleft()
        return executor.running

    def end(self, number: int, *, fails: bool = False, cost: int = 10) -> list[Message]:
        """An executor reports the task it runs."""
        executor = self.executors[number]
        task = executor.running
        assert task is not None
        executor.running = None
        if any(isinstance(source, int) and source not in executor.done for source in task.inputs):
            result = Result(task.number, 0, cost, not_run=True)
        elif fails:
            result = Result(task.number, cost, cost, failure=failure(task.key))
        else:
            executor.done.add(task.number)
            result = Result(task.number, cost, cost, 5, b"value", "int")
        return self.do(commands.Reported(number, [result]))

    def leave(self, number: int) -> list[Message]:
        """The task an executor runs gives up its slot; what would wait behind it is handed back."""
        executor = self.executors[number]
        task = executor.running
        assert task is not None
        executor.running = None
        executor.away.append(task)
        told = self.hand_back(number)
        return told + self.do(commands.TaskLeft(number, task.number))

    def come_back(self, number: int) -> list[Message]:
        """The task that left first takes its slot again; nothing else may run then."""
        executor = self.executors[number]
        task = executor.away.pop(0)
        told = self.do(commands.TaskBack(number, task.number))
        executor.running = task
        executor.done = {source for source in task.inputs if isinstance(source, int)}
        return told

    def hand_back(self, number: int) -> list[Message]:
        """An executor that was asked hands back what it hasn't begun."""
        executor = self.executors[number]
        executor.asked = False
        numbers = [task.number for task in reversed(executor.todo)]
        executor.todo.clear()
        return self.do(commands.RestReturned(number, numbers))

    def die(self, number: int, how: str = "signal 9 (SIGKILL)", *, expected: bool = False) -> list[Message]:
        """An executor dies, and with it what it runs."""
        executor = self.executors.pop(number)
        running = [executor.running.number] if executor.running is not None else []
        return self.do(commands.ExecutorEnded(number, running, how, expected))

    def step(self, number: int, **outcome: Any) -> list[Message]:
        """An executor runs its next task to its end."""
        assert self.begin(number) is not None
        return self.end(number, **outcome)

    def pass_time(self, seconds: float) -> list[Message]:
        """Time passes, and the machine is woken if it asked for that."""
        self.now += seconds
        if self.machine.wake_at is not None and self.machine.wake_at <= self.now:
            return self.do(commands.Tick())
        return []

    def learn(self, cost: int = 10, function: bytes = INC) -> None:
        """Let the machine know how long a function takes."""
        self.machine.dispatcher.costs.observe(function, cost)

    def packets(self, number: int) -> list[list[str]]:
        """The keys in each packet that an executor hasn't read."""
        return [[task.key for task in packet.tasks] for packet in self.executors[number].unread]
