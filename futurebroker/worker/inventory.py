"""What a worker kept of its time with a former scheduler, and how it tells the new one (sans-IO)."""

from __future__ import annotations

from collections.abc import Iterator

from futurebroker.data.objectstore import ObjectStore, StoredValue
from futurebroker.protocol.messages import KEEP_LIMIT, Finished, Inventory, Run
from futurebroker.protocol.wire import BATCH_BYTES
from futurebroker.types import Key

#: values that one message tells of
VALUES = 1000
#: stands for an attempt of a former scheduler, whose numbers mean nothing to the new one
KEPT = -1


def take_stock(store: ObjectStore) -> Iterator[Inventory]:
    """Tell of all values that are ours; none of them belongs to an attempt any more."""
    held: list[tuple[Key, int, str]] = []
    values: list[tuple[Key, bytes]] = []
    size = 0
    for key in store:
        value = store[key]
        if value.holder or value.freed:
            continue
        value.attempt = KEPT
        if value.data is not None and value.nbytes <= KEEP_LIMIT:
            values.append((key, value.data))
            size += value.nbytes
        else:
            held.append((key, value.nbytes, value.path))
        if len(held) + len(values) >= VALUES or size >= BATCH_BYTES:
            yield Inventory(held, values)
            held, values, size = [], [], 0
    if held or values:
        yield Inventory(held, values)


def answer_from_stock(value: StoredValue, run: Run) -> Finished | None:
    """The result of a task whose result was kept: the scheduler sent it before it heard of that."""
    if value.attempt != KEPT or value.holder or value.freed:
        return None
    value.attempt = run.attempt
    return Finished(run.key, run.attempt, value.nbytes, 0, value.data, value.path)
