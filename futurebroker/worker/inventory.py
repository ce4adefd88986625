"""What a worker kept of its time with a former scheduler, and how it tells the new one (sans-IO)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from futurebroker.data.objectstore import ObjectStore, StoredValue
from futurebroker.protocol.messages import KEEP_LIMIT, Adopt, Finished, Inventory, Run
from futurebroker.protocol.wire import BATCH_BYTES
from futurebroker.types import Key
from futurebroker.worker.records import TaskRecord

#: values that one message tells of
VALUES = 1000
#: stands for an attempt of a former scheduler, whose numbers mean nothing to the new one
KEPT = -1


def take_stock(store: ObjectStore, running: Iterable[TaskRecord]) -> Iterator[Inventory]:
    """Tell of what runs and of all values that are ours; none of them belongs to an attempt any more.

    The last message says that it is: the scheduler may wait for that before it gives others what might be here.
    """
    orphans = [(task.key, task.function) for task in running]
    for start in range(0, len(orphans), VALUES):
        yield Inventory([], [], orphans[start : start + VALUES])
    inventory, size = Inventory([], []), 0
    for key in store:
        value = store[key]
        if value.holder or value.freed:
            continue
        value.attempt = KEPT
        _enter(inventory, key, value)
        size += value.nbytes if value.data is not None else 0
        if len(inventory.held) + len(inventory.values) >= VALUES or size >= BATCH_BYTES:
            yield inventory
            inventory, size = Inventory([], []), 0
    inventory.last = True
    yield inventory


def tell_of(key: Key, value: StoredValue) -> Inventory:
    """Tell of one value that came later."""
    inventory = Inventory([], [])
    _enter(inventory, key, value)
    return inventory


def _enter(inventory: Inventory, key: Key, value: StoredValue) -> None:
    if value.data is not None and value.nbytes <= KEEP_LIMIT:
        inventory.values.append((key, value.data))
    else:
        inventory.held.append((key, value.nbytes, value.path))


def answer_from_stock(value: StoredValue, asked: Run | Adopt) -> Finished | None:
    """The result of a task whose result was kept: the scheduler asked before it heard of that."""
    if value.attempt != KEPT or value.holder or value.freed or (type(asked) is Run and asked.anew):
        return None
    value.attempt = asked.attempt
    return Finished(asked.key, asked.attempt, value.nbytes, 0, value.data, value.path)


class Orphans(dict[Key, TaskRecord]):
    """Tasks that were begun for a former scheduler, by key: they run on, and the new one may ask for them.

    An orphan is silent. Its inputs stay pinned, so that one that waits in an executor can be begun.
    """

    def add(self, task: TaskRecord) -> None:
        """Its scheduler is gone."""
        task.silent = True
        self[task.key] = task

    def take_up(self, asked: Run | Adopt) -> TaskRecord | None:
        """The new scheduler asks for this key: the task goes on as its attempt, if it is the same."""
        task = self.pop(asked.key, None)
        if task is None:
            return None
        if type(asked) is Run and (asked.anew or (task.function, task.args) != (asked.function, asked.args)):
            return None
        task.silent = False
        task.attempt = asked.attempt
        return task

    def discard(self, task: TaskRecord) -> bool:
        """It has ended; False if somebody else's end it is."""
        if self.get(task.key) is not task:
            return False
        del self[task.key]
        return True
