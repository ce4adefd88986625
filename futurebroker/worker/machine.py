"""The worker's machine (sans-IO): events in, instructions out.

`WorkerMachine.handle` takes one of the events of `commands` and returns what is to be done about it: messages to the
scheduler and instructions to the agent. It knows tasks, values and executors by name and number only, and never looks
into what a user sent. Times are monotonic seconds and always given by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from futurebroker.data.objectstore import StoredValue
from futurebroker.protocol import messages
from futurebroker.protocol.messages import Finished, Held
from futurebroker.types import Key, WorkerId
from futurebroker.worker import absences, bounds, commands
from futurebroker.worker.arrivals import Arrivals, answer, holder_of
from futurebroker.worker.attempts import Attempts
from futurebroker.worker.calls import Calls
from futurebroker.worker.commands import Event, Instruction
from futurebroker.worker.dispatch import STALL
from futurebroker.worker.inventory import answer_from_stock
from futurebroker.worker.memory import UNLIMITED, Memory, MemoryPlan
from futurebroker.worker.packets import Result
from futurebroker.worker.records import GONE, READY, SENT, WAITING, ExecutorRecord, TaskRecord
from futurebroker.worker.retiring import Retiring
from futurebroker.worker.wear import Wear


class WorkerMachine(Attempts):
    """See the top of this file.

    Args:
        name: of the worker, for failures it reports itself.
        new_path: makes a fresh path in the worker's folder, one nobody can guess; True: on disk, of a sealed file.
        plan: how much memory the worker may have.
        ways: by which values of others may come, besides the scheduler.
    """

    def __init__(
        self,
        name: str,
        new_path: Callable[[bool], str],
        plan: MemoryPlan = UNLIMITED,
        ways: Collection[str] = ("map", "direct"),
    ) -> None:
        super().__init__()
        self.name = name
        self.executors: dict[int, ExecutorRecord] = {}
        #: when `Tick` is due; None: never
        self.wake_at: float | None = None
        self._now = 0.0
        self._calls = Calls(name, self.executors, self._emit)
        self._retiring = Retiring(self.executors)
        self._bounds = bounds.Bounds(self._emit)
        self.memory = Memory(plan, self.store, self.executors, self._emit, new_path, self._is_occupied)
        self.arrivals = Arrivals(self, self._emit, lambda nbytes: new_path(self.memory.to_disk(nbytes)), ways)
        self._drained = False
        self.wear = Wear(self._emit, self.memory.executing)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """What is to be done about ``event``, in this order."""
        out = self._out = []
        self._now = now
        _EVENTS[type(event)](self, event)
        if self.dispatcher.ready:
            self._dispatch()
        elif self.dispatcher.sent:
            self._rebalance()
        if self._retiring:
            out.extend(self._retiring.idle())
        self.memory.look(now)
        if self.store.doomed:
            out.extend(commands.Unlink(path) for path in self.store.doomed)
            self.store.doomed.clear()
        if self.draining and not self.dispatcher.sent and not self._calls and not self._drained:
            self._drained = True
            out.append(commands.Drained())
        return out

    def _is_occupied(self, executor: int) -> bool:
        """Whether an executor has more to do than its packets: a call out of line, a task that waits for others."""
        return self._calls.is_calling(executor) or bool(self.executors[executor].away)

    def staying(self) -> list[int]:
        """The executors that aren't about to be replaced."""
        return [number for number, executor in self.executors.items() if not executor.leaving]

    def standing(self) -> dict[str, float]:
        """What a hello tells of the calls that every executor makes; see `Rounds.marks`."""
        return self._calls.rounds.marks()

    def _emit(self, instruction: Instruction) -> None:
        self._out.append(instruction)

    # -- messages of the scheduler ----------------------------------------------------------------------------------

    def _delivered(self, event: commands.Delivered) -> None:
        run, run_message = self._run, messages.Run
        for message in event.messages:
            if type(message) is run_message:
                run(message)
            else:
                _MESSAGES[type(message)](self, message)

    def _run(self, message: messages.Run) -> None:
        key, inputs = message.key, message.inputs
        is_known = key in self.tasks or self.store.get(key) is not None or key in self.orphans
        if (is_known or self.draining) and not self._wants_run(message):
            return
        task = TaskRecord(key, message.attempt, message.function, message.args, inputs, message.order, message.terms)
        self.tasks[key] = task
        if inputs:
            self._gather(task)
            if task.missing or task.state is GONE:
                return
        self.dispatcher.add(task)

    def _wants_run(self, message: messages.Run) -> bool:
        """Whether to run what is known already or comes while we drain; what it is newer than has made way then."""
        key = message.key
        known = self.tasks.get(key)
        if known is not None:
            if message.attempt <= known.attempt:
                return False
            if known.dropped:
                del self.tasks[key]  # it is still answered for when it ends
            else:
                self._silence(known)
        if self._goes_on(message):
            return False
        if self.draining:
            self._out.append(messages.GaveBack(key, message.attempt))
            return False
        value = self.store.get(key)
        if value is not None:
            if value.attempt >= message.attempt:
                return False
            if (kept := answer_from_stock(value, message)) is not None:
                self._out.append(kept)
                return False
            self.store.free(key)  # made by an attempt that was given up: nobody else will free it
        return True

    def _gather(self, task: TaskRecord) -> None:
        """Pin the inputs that are here, and see that the others come."""
        fetch: list[Held] = []
        for source in task.inputs:
            if isinstance(source, bytes):
                continue
            value = self.store.get(source.key)
            if value is not None:
                value.pins += 1
                self.store.touch(source.key, value)
                continue
            task.missing += 1
            self.dependents.setdefault(source.key, []).append(task)
            if source.holders:
                fetch.append(source)
        for source in fetch:
            self._fetch(source, kept=False)

    def _fetch(self, source: Held, kept: bool) -> None:
        self.arrivals.fetch(source, kept, self._now)
        self._wake(self._now + self.arrivals.patience)

    def _drop(self, message: messages.Drop | messages.Kill) -> None:
        task = self.tasks.get(message.key)
        if task is None or task.attempt != message.attempt:
            return
        if task.state is SENT:
            task.dropped = True
            self._unpin(task)
            self._forget_dependents(task.key)
        else:
            self._give_back(task)

    def _kill(self, message: messages.Kill) -> None:
        task = self.tasks.get(message.key)
        self._drop(message)
        if task is not None and task.dropped:
            bounds.end(task, self._emit)

    def _give_back_asked(self, message: messages.GiveBack) -> None:
        recall: dict[int, commands.Instruction] = {}
        for key, attempt in message.tasks:
            task = self.tasks.get(key)
            if task is None or task.attempt != attempt or task.dropped:
                continue
            if task.state is not SENT:
                self._give_back(task)
                continue
            packet = task.packet
            if packet is None:
                continue
            executor = packet.executor
            if len(executor.packets) > executor.threads:
                task.give_back = True  # if it has begun, it runs on and its result is reported
                recall[executor.number] = commands.Recall(executor.number)
            elif packet.left > 1:  # it may stand behind others that a thread has got with it
                task.give_back = True
                recall.setdefault(executor.number, commands.AskRest(executor.number))
        self._out += recall.values()

    def _replicate(self, message: messages.Replicate) -> None:
        if not self.arrivals.has_copy(message.source.key, self.store):
            self._fetch(message.source, kept=True)

    # -- values -----------------------------------------------------------------------------------------------------

    def value_arrived(self, key: Key, value: StoredValue, kept: bool) -> None:
        """See `ArrivalEvents`."""
        self._hold(key, value)
        if kept:
            self._out.append(messages.Stored(key, value.nbytes, value.path))

    def value_failed(self, key: Key, tried: list[tuple[Key, WorkerId]], kept: bool, reason: str) -> None:
        """See `ArrivalEvents`."""
        if kept:
            self._out.append(messages.NotStored(key, reason))
        for task in dict.fromkeys(self.dependents.get(key, ())):
            if not task.silent and not task.dropped:
                self._out.append(messages.InputsMissing(task.key, task.attempt, tried))
            self._silence(task)

    def _write_failed(self, event: commands.WriteFailed) -> None:
        if self.arrivals.write_failed(event, self._now):
            return
        for key in [key for key in self.store if self.store[key].path == event.path]:
            self.store.free(key)
            self._out += [commands.Unlink(event.path), messages.NotStored(key, event.reason)]

    # -- the ends of tasks ------------------------------------------------------------------------------------------

    def _reported(self, event: commands.Reported) -> None:
        executor = self.executors.get(event.executor)
        if executor is not None:
            executor.heard = self._now
            executor.asked = False
        costs = self.dispatcher.costs
        tasks, dependents, put, out = self.tasks, self.dependents, self.store.put, self._out
        function, cost, count = b"", 0, 0
        for result, task in zip(event.results, self.dispatcher.take_reported(event.results)):
            value = result.value
            if task is None or value is None or task.inputs or task.dropped or task.silent or result.futures:
                self._reported_otherwise(task, result, event.executor)
                continue
            # The usual end, in as few steps as it takes.
            key, attempt, nbytes = task.key, task.attempt, result.nbytes
            del tasks[key]
            started = result.started
            out.append(Finished(key, attempt, nbytes, result.duration, value, "", result.type, started, event.executor))
            if key in dependents:
                self._hold(key, StoredValue(nbytes, value, "", attempt))
            else:
                put(key, StoredValue(nbytes, value, "", attempt))
            if task.function != function:
                if count:
                    costs.observe(function, cost / count, count)
                function, cost, count = task.function, 0, 0
            cost += result.cost
            count += 1
        if count:
            costs.observe(function, cost / count, count)
        if executor is not None and self.wear:
            self.wear.reported(executor, len(event.results))

    def _reported_otherwise(self, task: TaskRecord | None, result: Result, executor: int) -> None:
        """A result of a task with inputs, one that isn't wanted, one in a file, or none."""
        if task is None or task.silent:
            if task is not None and self.orphans.discard(task) and (result.value is not None or result.path):
                self._keep_orphaned(task, result)
            elif result.path:
                self._out.append(commands.Unlink(result.path))
            if task is not None:
                self._end(task)
        elif result.value is not None or result.path:
            self.dispatcher.costs.observe(task.function, result.cost)
            self._finished(task, result, executor)
        else:
            self._not_finished(task, result, executor)

    def _finished(self, task: TaskRecord, result: Result, executor: int) -> None:
        self._end(task)
        if task.dropped:
            if result.path:
                self._out.append(commands.Unlink(result.path))
            return
        key, nbytes, value, path = task.key, result.nbytes, result.value, result.path
        if result.futures:
            self._out.append(messages.ResultHolds(key, task.attempt, result.futures))
        started = result.started
        self._out.append(
            Finished(key, task.attempt, nbytes, result.duration, value, path, result.type, started, executor)
        )
        self._hold(key, StoredValue(nbytes, value, path, task.attempt))

    def _not_finished(self, task: TaskRecord, result: Result, executor: int) -> None:
        if result.not_run:
            self._return(task)
            return
        if not task.dropped:
            if result.again is not None:
                self._out.append(bounds.continued(task, result.duration, result.again))
            elif result.missing is not None and not task.inputs:
                self._out.append(messages.GaveBack(task.key, task.attempt))  # it was given up, and adopted later
            elif result.missing is not None:
                missing = [holder_of(task.inputs[index], self.store) for index in result.missing]
                self._out.append(messages.InputsMissing(task.key, task.attempt, missing))
            else:
                assert result.failure is not None
                self.dispatcher.costs.observe(task.function, result.cost)
                failure, duration, started = result.failure, result.duration, result.started
                self._out.append(messages.Erred(task.key, task.attempt, failure, duration, started, executor))
        self._end(task)
        if not task.dropped:  # else that was done, and a newer attempt may have others waiting for it
            self._forget_dependents(task.key)

    # -- executors --------------------------------------------------------------------------------------------------

    def _executor_ready(self, event: commands.ExecutorReady) -> None:
        self.executors[event.executor] = ExecutorRecord(event.executor, event.threads, self._now)
        self._calls.executor_ready(self.executors[event.executor])

    def _executor_ended(self, event: commands.ExecutorEnded) -> None:
        is_calling = self._calls.is_calling(event.executor)
        self._calls.executor_ended(event.executor, event.how)
        executor = self.executors.pop(event.executor, None) or self._retiring.pop(event.executor)
        if executor is None:
            return
        begun, rest = absences.split(self.dispatcher, executor, event)
        for task in rest:
            self._return(task)
        self._out += absences.reports(begun, executor, event, is_calling)
        for task in begun:
            self._end(task)
            if not task.silent and not task.dropped:
                self._forget_dependents(task.key)

    def _recalled(self, event: commands.Recalled) -> None:
        executor = self.executors.get(event.executor) or self._retiring.get(event.executor)
        if executor is None:
            return
        # What is left it has read; asking again before it gets more would go on for ever.
        executor.unread = False
        for packet in [executor.packets[number] for number in event.packets if number in executor.packets]:
            self._take_back(packet.numbers)

    def _take_back(self, numbers: Iterable[int]) -> None:
        for task in filter(None, map(self.dispatcher.take_back, numbers)):
            self._return(task)

    def _dispatch(self) -> None:
        executors = self.executors.values()
        share = 1 if self.memory.paused or self.wear else self.dispatcher.share(executors)
        while (
            self.memory.may_start and (chosen := self.dispatcher.next_packet(executors, share, self._now)) is not None
        ):
            executor, packet = chosen
            self._out.append(commands.SendPacket(executor.number, packet))
            if packet.tasks[0].terms is not None and (at := self._bounds.begin(packet.tasks[0], self._now)):
                self._wake(at)
            if len(packet.tasks) > 1 or len(executor.packets) > executor.threads:
                self._wake(self._now + STALL)

    def _rebalance(self) -> None:
        executor = self.dispatcher.to_recall(self.executors.values(), self._now)
        if executor is not None:
            self._out.append(commands.Recall(executor.number))

    def _wake(self, at: float) -> None:
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at

    def _tick(self, event: commands.Tick) -> None:
        self.wake_at = None
        stalled, look_at = self.dispatcher.stalled(self.executors.values(), self._now)
        self._out.extend(commands.AskRest(executor.number) for executor in stalled)
        if look_at is not None:
            self._wake(look_at)
        if self._bounds and (at := self._bounds.tick(self.dispatcher.sent, self._now)):
            self._wake(at)
        if len(self.arrivals):
            self._wake(self.arrivals.tick(self._now))

    # -- the ends of the worker -------------------------------------------------------------------------------------

    def _drain(self, event: commands.Drain) -> None:
        self.draining = True
        for task in list(self.tasks.values()):
            if task.state in (WAITING, READY):
                self._give_back(task)
        self.memory.recall_all()

    def _fresh(self, event: commands.Fresh) -> None:
        self.arrivals.clear()
        self._calls.clear()
        self._orphan_all()


_MESSAGES: dict[type[Any], Callable[[WorkerMachine, Any], None]] = {
    messages.Run: WorkerMachine._run,
    messages.Adopt: WorkerMachine._adopt,
    messages.Free: lambda machine, message: machine.store.free_all(message.keys),
    messages.Drop: WorkerMachine._drop,
    messages.GiveBack: WorkerMachine._give_back_asked,
    messages.Store: lambda machine, message: machine.arrivals.store(message),
    messages.AdoptFile: lambda machine, message: machine.arrivals.adopt(message),
    messages.StorePart: lambda machine, message: machine.arrivals.store_part(message),
    messages.Replicate: WorkerMachine._replicate,
    messages.AddFunction: lambda machine, m: machine._emit(commands.KeepFunction(m.digest, m.code)),
    messages.Kill: WorkerMachine._kill,
    messages.Resize: lambda machine, message: machine.wear.resize(machine.executors, message.more),
    messages.CallFunction: lambda machine, message: machine._calls.make(message, machine.staying()),
    messages.CallExecutors: lambda machine, message: machine._calls.rounds.call(message),
    messages.Inspect: lambda machine, message: machine._calls.rounds.look(message),
    messages.RestartExecutors: lambda machine, message: machine._emit(commands.Operate(message)),
    messages.Prepare: lambda machine, message: machine._emit(commands.Operate(message)),
    messages.ParcelPart: lambda machine, message: machine._emit(commands.Operate(message)),
    messages.ParcelWanted: lambda machine, message: machine._emit(commands.Operate(message)),
    messages.StandingWanted: lambda machine, message: machine._calls.rounds.give(message.names),
    messages.Leave: lambda machine, m: machine._emit(commands.LeaveNow(m.reason, m.patience, m.hurry)),
    messages.DataWanted: lambda machine, message: machine._emit(answer(message, machine.store)),
    messages.DataPart: lambda machine, message: machine.arrivals.part(message, machine._now),
}

_EVENTS: dict[type[Any], Callable[[WorkerMachine, Any], None]] = {
    commands.Delivered: WorkerMachine._delivered,
    commands.Reported: WorkerMachine._reported,
    commands.ExecutorReady: WorkerMachine._executor_ready,
    commands.ExecutorEnded: WorkerMachine._executor_ended,
    commands.Recalled: WorkerMachine._recalled,
    commands.RestReturned: lambda machine, event: machine._take_back(sorted(event.numbers)),
    commands.TaskLeft: lambda machine, event: machine._out.extend(absences.task_left(machine.dispatcher, event)),
    commands.TaskBack: lambda machine, event: machine._out.extend(
        absences.task_back(machine.dispatcher, event, machine._now)
    ),
    commands.CallEnded: lambda machine, event: machine._calls.ended(event),
    commands.Inspected: lambda machine, event: machine._calls.rounds.inspected(event),
    commands.Retire: lambda machine, event: machine._out.extend(machine._retiring.retire(event.executor)),
    commands.Probed: lambda machine, event: machine.arrivals.probed(event),
    commands.Taken: lambda machine, event: machine.arrivals.taken(event),
    commands.WriteFailed: WorkerMachine._write_failed,
    commands.Pulled: lambda machine, event: machine.arrivals.pulled(event, machine._now),
    commands.BulkInbox: lambda machine, event: machine.arrivals.inbox(event),
    commands.Written: lambda machine, event: machine.arrivals.written(event),
    commands.Measured: lambda machine, event: machine.memory.measured(event, machine._now),
    commands.Spilled: lambda machine, event: machine.memory.spilled(event, machine._now),
    commands.Damaged: lambda machine, event: machine.memory.damaged(event.key, event.path, event.reason),
    commands.Tick: WorkerMachine._tick,
    commands.Drain: WorkerMachine._drain,
    commands.Fresh: WorkerMachine._fresh,
}
