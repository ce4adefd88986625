"""The attempts that a worker's machine knows, and the ways in which each of them ends (sans-IO)."""

from __future__ import annotations

from futurebroker.data.objectstore import ObjectStore, StoredValue
from futurebroker.protocol import messages
from futurebroker.types import Key
from futurebroker.worker.commands import Instruction
from futurebroker.worker.dispatch import Dispatcher
from futurebroker.worker.inventory import KEPT, Orphans, answer_from_stock, take_stock, tell_of
from futurebroker.worker.packets import Result
from futurebroker.worker.records import GONE, READY, SENT, WAITING, TaskRecord


class Attempts:
    """The part of a `WorkerMachine` that ends tasks; see the top of this file."""

    def __init__(self) -> None:
        self.store = ObjectStore()
        #: the newest attempt of each key that isn't finished
        self.tasks: dict[Key, TaskRecord] = {}
        #: the tasks that miss a key, once for each input that it is
        self.dependents: dict[Key, list[TaskRecord]] = {}
        self.orphans = Orphans()
        self.dispatcher = Dispatcher(self.store, self.dependents)
        self.draining = False
        self._out: list[Instruction] = []

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

    def _end(self, task: TaskRecord) -> None:
        """A task that was in a packet is done with; a dropped one is answered for."""
        task.state = GONE
        self.orphans.discard(task)
        if task.inputs:
            self._unpin(task)
        if self.tasks.get(task.key) is task:
            del self.tasks[task.key]
        if task.dropped and not task.silent:
            self._out.append(messages.GaveBack(task.key, task.attempt))

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

    # -- another scheduler ------------------------------------------------------------------------------------------

    def _orphan_all(self) -> None:
        """Another scheduler knows nothing of what we have: what runs goes on, all is told."""
        tasks = list(self.tasks.values())
        begun = [task for task in tasks if task.state is SENT and not task.dropped]
        for task in begun:
            if task.missing:  # made before it in its packet, or not at all
                self._unpin(task)
                task.give_back = True
            self.orphans.add(task)
            del self.tasks[task.key]
        for task in tasks:
            if not task.silent:
                self._silence(task)
        self._out.extend(take_stock(self.store, self.orphans.values()))

    def _goes_on(self, asked: messages.Run | messages.Adopt) -> bool:
        """Whether this key runs since a former scheduler's time."""
        task = self.orphans.take_up(asked)
        if task is not None:
            self.tasks[task.key] = task
        return task is not None

    def _adopt(self, message: messages.Adopt) -> None:
        if self._goes_on(message):
            return
        value = self.store.get(message.key)
        kept = answer_from_stock(value, message) if value is not None else None
        self._out.append(kept or messages.GaveBack(message.key, message.attempt))

    def _keep_orphaned(self, task: TaskRecord, result: Result) -> None:
        """What was begun for a former scheduler is done: perhaps the new one will want it."""
        self._hold(task.key, StoredValue(result.nbytes, result.value, result.path, KEPT))
        self._out.append(tell_of(task.key, self.store[task.key]))
