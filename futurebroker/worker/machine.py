"""The worker's machine (sans-IO): events in, instructions out.

`WorkerMachine.handle` takes one of the events of `commands` and returns what is to be done about it: messages to the
scheduler and instructions to the agent. It knows tasks, values and executors by name and number only, and never looks
into what a user sent. Times are monotonic seconds and always given by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from futurebroker.data.objectstore import ObjectStore, StoredValue
from futurebroker.protocol import messages
from futurebroker.protocol.messages import Finished, Held
from futurebroker.types import Key, WorkerId
from futurebroker.worker import absences, commands
from futurebroker.worker.arrivals import PATIENCE, Arrivals, answer
from futurebroker.worker.calls import Calls
from futurebroker.worker.commands import Event, Instruction
from futurebroker.worker.dispatch import STALL, Dispatcher
from futurebroker.worker.inventory import answer_from_stock, take_stock
from futurebroker.worker.packets import Result
from futurebroker.worker.records import GONE, READY, SENT, WAITING, ExecutorRecord, TaskRecord
from futurebroker.worker.retiring import Retiring


class WorkerMachine:
    """See the top of this file.

    Args:
        name: of the worker, for failures it reports itself.
        new_path: makes a fresh path in the worker's folder, one nobody can guess.
    """

    def __init__(self, name: str, new_path: Callable[[], str]) -> None:
        self.name = name
        self.store = ObjectStore()
        #: the newest attempt of each key that isn't finished
        self.tasks: dict[Key, TaskRecord] = {}
        #: the tasks that miss a key, once for each input that it is
        self.dependents: dict[Key, list[TaskRecord]] = {}
        self.executors: dict[int, ExecutorRecord] = {}
        self.dispatcher = Dispatcher(self.store, self.dependents)
        self.draining = False
        #: when `Tick` is due; None: never
        self.wake_at: float | None = None
        self._out: list[Instruction] = []
        self._now = 0.0
        self._new_path = new_path
        self._arrivals = Arrivals(self, self._emit, new_path)
        self._calls = Calls(name, self.executors, self._emit)
        self._retiring = Retiring(self.executors, self.dispatcher)
        self._drained = False

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
        if self.store.doomed:
            out.extend(commands.Unlink(path) for path in self.store.doomed)
            self.store.doomed.clear()
        if self.draining and not self.dispatcher.sent and not self._calls and not self._drained:
            self._drained = True
            out.append(commands.Drained())
        return out

    def counts(self) -> dict[str, int]:
        """How many tasks run, are ready and wait; for metrics."""
        sent, ready = len(self.dispatcher.sent), self.dispatcher.ready
        running = sum(min(executor.threads, len(executor.packets)) for executor in self.executors.values())
        return {
            "executing": running,
            "ready": ready + sent - running - len(self.dispatcher.away),
            "waiting": max(0, len(self.tasks) - sent - ready),
        }

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
        if (key in self.tasks or self.draining or self.store.get(key) is not None) and not self._wants_run(message):
            return
        task = TaskRecord(key, message.attempt, message.function, message.args, inputs, message.order)
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
                continue
            task.missing += 1
            self.dependents.setdefault(source.key, []).append(task)
            if source.holders:
                fetch.append(source)
        for source in fetch:
            self._fetch(source, kept=False)

    def _fetch(self, source: Held, kept: bool) -> None:
        self._arrivals.fetch(source, kept, self._now)
        self._wake(self._now + PATIENCE)

    def _free(self, message: messages.Free) -> None:
        self.store.free_all(message.keys)

    def _drop(self, message: messages.Drop) -> None:
        task = self.tasks.get(message.key)
        if task is None or task.attempt != message.attempt:
            return
        if task.state is SENT:
            task.dropped = True
            self._unpin(task)
            self._forget_dependents(task.key)
        else:
            self._give_back(task)

    def _give_back_asked(self, message: messages.GiveBack) -> None:
        recall: dict[int, None] = {}
        for key, attempt in message.tasks:
            task = self.tasks.get(key)
            if task is None or task.attempt != attempt or task.dropped:
                continue
            if task.state is not SENT:
                self._give_back(task)
                continue
            executor = task.packet.executor if task.packet is not None else None
            if executor is not None and len(executor.packets) > executor.threads:
                task.give_back = True  # if it has begun, it runs on and its result is reported
                recall[executor.number] = None
        for number in recall:
            self._out.append(commands.Recall(number))

    def _replicate(self, message: messages.Replicate) -> None:
        key = message.source.key
        value = self.store.get(key)
        if value is not None and not value.holder:
            value.freed = False
            self._out.append(messages.Stored(key, value.nbytes, value.path))
            return
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

    def _hold(self, key: Key, value: StoredValue) -> None:
        """Keep a value and pin it to the tasks that waited for it."""
        dependents = self.dependents.pop(key, None)
        if dependents is not None:
            value.pins = len(dependents)
        self.store.put(key, value)
        if dependents is not None:
            for task in dependents:
                task.missing -= 1
                if not task.missing and task.state is WAITING:
                    self.dispatcher.add(task)
        if value.freed and not value.pins:
            self.store.free(key)

    def _write_failed(self, event: commands.WriteFailed) -> None:
        if self._arrivals.write_failed(event, self._now):
            return
        for key in [key for key in self.store if self.store[key].path == event.path]:
            self.store.free(key)
            self._out += [commands.Unlink(event.path), messages.NotStored(key, event.reason)]

    # -- the ends of tasks ------------------------------------------------------------------------------------------

    def _unpin(self, task: TaskRecord) -> None:
        """Let go of the inputs; a task without them is never run again."""
        store, dependents = self.store, self.dependents
        for source in task.inputs:
            if isinstance(source, bytes):
                continue
            key = source.key
            if key in store:
                store.unpin(key)
            else:
                waiting = dependents[key]
                waiting.remove(task)
                if not waiting:
                    del dependents[key]
        task.inputs = ()
        task.missing = 0

    def _remove(self, task: TaskRecord) -> None:
        """Forget a task that isn't in a packet."""
        if task.state is READY:
            self.dispatcher.remove(task)
        task.state = GONE
        if task.inputs:
            self._unpin(task)
        if self.tasks.get(task.key) is task:
            del self.tasks[task.key]

    def _give_back(self, task: TaskRecord) -> None:
        self._out.append(messages.GaveBack(task.key, task.attempt))
        current = self.tasks.get(task.key) is task
        self._remove(task)
        if current:
            self._forget_dependents(task.key)

    def _silence(self, task: TaskRecord) -> None:
        """Nobody expects to hear of ``task`` any more, nor of those that wait for it; what runs runs on, unheard."""
        if task.silent or task.state is GONE:
            return
        if task.state is SENT:
            task.silent = True
            if task.inputs:
                self._unpin(task)
            if self.tasks.get(task.key) is task:
                del self.tasks[task.key]
        else:
            self._remove(task)
        self._forget_dependents(task.key)

    def _forget_dependents(self, key: Key) -> None:
        """The task that makes ``key`` came to nothing: the scheduler has decided about those that wait for it."""
        while key in self.dependents and key not in self.store:
            self._silence(self.dependents[key][0])

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
                self._reported_otherwise(task, result)
                continue
            # The usual end, in as few steps as it takes.
            key, attempt, nbytes = task.key, task.attempt, result.nbytes
            del tasks[key]
            out.append(Finished(key, attempt, nbytes, result.duration, value, "", result.type))
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

    def _reported_otherwise(self, task: TaskRecord | None, result: Result) -> None:
        """A result of a task with inputs, one that isn't wanted, one in a file, or none."""
        if task is None or task.silent:
            if result.path:
                self._out.append(commands.Unlink(result.path))
            if task is not None:
                self._end(task)
        elif result.value is not None or result.path:
            self.dispatcher.costs.observe(task.function, result.cost)
            self._finished(task, result)
        else:
            self._not_finished(task, result)

    def _end(self, task: TaskRecord) -> None:
        """A task that was in a packet is done with; a dropped one is answered for."""
        task.state = GONE
        if task.inputs:
            self._unpin(task)
        if self.tasks.get(task.key) is task:
            del self.tasks[task.key]
        if task.dropped and not task.silent:
            self._out.append(messages.GaveBack(task.key, task.attempt))

    def _finished(self, task: TaskRecord, result: Result) -> None:
        self._end(task)
        if task.dropped:
            if result.path:
                self._out.append(commands.Unlink(result.path))
            return
        key, nbytes, value, path = task.key, result.nbytes, result.value, result.path
        if result.futures:
            self._out.append(messages.ResultHolds(key, task.attempt, result.futures))
        self._out.append(Finished(key, task.attempt, nbytes, result.duration, value, path, result.type))
        self._hold(key, StoredValue(nbytes, value, path, task.attempt))

    def _not_finished(self, task: TaskRecord, result: Result) -> None:
        if result.not_run:
            self._return(task)
            return
        if not task.dropped:
            if result.missing is not None:
                missing = [self._whose(task.inputs[index]) for index in result.missing]
                self._out.append(messages.InputsMissing(task.key, task.attempt, missing))
            else:
                assert result.failure is not None
                self.dispatcher.costs.observe(task.function, result.cost)
                self._out.append(messages.Erred(task.key, task.attempt, result.failure, result.duration))
        self._end(task)
        if not task.dropped:  # else that was done, and a newer attempt may have others waiting for it
            self._forget_dependents(task.key)

    def _whose(self, source: bytes | Held) -> tuple[Key, WorkerId]:
        assert isinstance(source, Held)
        value = self.store.get(source.key)
        return source.key, value.holder if value is not None else ""

    def _return(self, task: TaskRecord) -> None:
        """A task that was in a packet hasn't begun."""
        if task.silent or task.dropped:
            self._end(task)
        elif self.draining or task.give_back:
            task.state = WAITING
            self._give_back(task)
        elif task.missing:
            task.state = WAITING
        else:
            self.dispatcher.add(task)

    # -- executors --------------------------------------------------------------------------------------------------

    def _executor_ready(self, event: commands.ExecutorReady) -> None:
        self.executors[event.executor] = ExecutorRecord(event.executor, event.threads, self._now)
        self._calls.executor_ready(self.executors[event.executor])

    def _executor_ended(self, event: commands.ExecutorEnded) -> None:
        self._calls.executor_ended(event.executor, event.how)
        executor = self.executors.pop(event.executor, None) or self._retiring.pop(event.executor)
        if executor is None:
            return
        for packet in list(executor.packets.values()):
            for number in packet.numbers:
                task = self.dispatcher.take_back(number)
                if task is None:
                    continue
                if number not in event.running or task.silent or task.dropped:
                    self._return(task)
                    continue
                self._out.append(messages.ExecutorDied(task.key, task.attempt, event.how))
                self._end(task)
                self._forget_dependents(task.key)
        for task, message in absences.executor_ended(self.dispatcher, event):
            if message is not None:
                self._out.append(message)
            self._end(task)
            if message is not None:
                self._forget_dependents(task.key)

    def _recalled(self, event: commands.Recalled) -> None:
        executor = self.executors.get(event.executor) or self._retiring.get(event.executor)
        if executor is None:
            return
        # What is left it has read; asking again before it gets more would go on for ever.
        executor.unread = False
        for number in event.packets:
            packet = executor.packets.get(number)
            if packet is not None:
                self._take_back(packet.numbers)

    def _rest_returned(self, event: commands.RestReturned) -> None:
        self._take_back(sorted(event.numbers))

    def _take_back(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            task = self.dispatcher.take_back(number)
            if task is not None:
                self._return(task)

    def _dispatch(self) -> None:
        executors = self.executors.values()
        share = self.dispatcher.share(executors)
        while (chosen := self.dispatcher.next_packet(executors, share, self._now)) is not None:
            executor, packet = chosen
            self._out.append(commands.SendPacket(executor.number, packet))
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
        if len(self._arrivals):
            self._arrivals.tick(self._now)
            self._wake(self._now + PATIENCE)

    # -- the ends of the worker -------------------------------------------------------------------------------------

    def _drain(self, event: commands.Drain) -> None:
        self.draining = True
        for task in list(self.tasks.values()):
            if task.state in (WAITING, READY):
                self._give_back(task)
        for executor in self.executors.values():
            if executor.packets:
                self._out.append(commands.Recall(executor.number))
                self._out.append(commands.AskRest(executor.number))

    def _fresh(self, event: commands.Fresh) -> None:
        self._arrivals.clear()
        self._calls.clear()
        for task in list(self.tasks.values()):
            self._silence(task)
        self._out.extend(take_stock(self.store))


_MESSAGES: dict[type[Any], Callable[[WorkerMachine, Any], None]] = {
    messages.Run: WorkerMachine._run,
    messages.Free: WorkerMachine._free,
    messages.Drop: WorkerMachine._drop,
    messages.GiveBack: WorkerMachine._give_back_asked,
    messages.Store: lambda machine, message: machine._arrivals.store(message),
    messages.AdoptFile: lambda machine, message: machine._arrivals.adopt(message),
    messages.StorePart: lambda machine, message: machine._arrivals.store_part(message),
    messages.Replicate: WorkerMachine._replicate,
    messages.AddFunction: lambda machine, m: machine._emit(commands.KeepFunction(m.digest, m.code)),
    messages.CallFunction: lambda machine, message: machine._calls.make(message, machine.executors),
    messages.CallExecutors: lambda machine, message: machine._calls.rounds.call(message),
    messages.Inspect: lambda machine, message: machine._calls.rounds.look(message),
    messages.RestartExecutors: lambda machine, message: machine._emit(commands.Operate(message)),
    messages.Prepare: lambda machine, message: machine._emit(commands.Operate(message)),
    messages.ParcelPart: lambda machine, message: machine._emit(commands.Operate(message)),
    messages.Leave: lambda machine, message: machine._emit(commands.LeaveNow(message.reason, message.patience)),
    messages.DataWanted: lambda machine, message: machine._emit(answer(message, machine.store)),
    messages.DataPart: lambda machine, message: machine._arrivals.part(message, machine._now),
}

_EVENTS: dict[type[Any], Callable[[WorkerMachine, Any], None]] = {
    commands.Delivered: WorkerMachine._delivered,
    commands.Reported: WorkerMachine._reported,
    commands.ExecutorReady: WorkerMachine._executor_ready,
    commands.ExecutorEnded: WorkerMachine._executor_ended,
    commands.Recalled: WorkerMachine._recalled,
    commands.RestReturned: WorkerMachine._rest_returned,
    commands.TaskLeft: lambda machine, event: machine._out.extend(absences.task_left(machine.dispatcher, event)),
    commands.TaskBack: lambda machine, event: machine._out.extend(
        absences.task_back(machine.dispatcher, event, machine._now)
    ),
    commands.CallEnded: lambda machine, event: machine._calls.ended(event),
    commands.Inspected: lambda machine, event: machine._calls.rounds.inspected(event),
    commands.Retire: lambda machine, event: machine._out.extend(machine._retiring.retire(event.executor)),
    commands.Probed: lambda machine, event: machine._arrivals.probed(event),
    commands.Taken: lambda machine, event: machine._arrivals.taken(event),
    commands.WriteFailed: WorkerMachine._write_failed,
    commands.Tick: WorkerMachine._tick,
    commands.Drain: WorkerMachine._drain,
    commands.Fresh: WorkerMachine._fresh,
}
