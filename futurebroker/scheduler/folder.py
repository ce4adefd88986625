"""The process that folds old journal rows into a checkpoint; it has a state of its own, replayed from the database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

from futurebroker.persistence.database import open_engine
from futurebroker.persistence.journal import Journal
from futurebroker.processes import Service, serve_parent
from futurebroker.protocol.wire import Seal
from futurebroker.scheduler import checkpoint
from futurebroker.scheduler.restoring import restore
from futurebroker.scheduler.state import Policy, SchedulerState


class _Done:
    """What is left to do once the fold is done: nothing."""

    async def finished(self) -> None: ...

    async def close(self) -> None: ...


def fold(journal: Journal, sequence: int, policy: Policy) -> int:
    """Fold the rows up to ``sequence``; returns the bytes of the checkpoint.

    Raises:
        DatabaseError: it can't be read or written; the journal is as it was.
    """
    state = SchedulerState(policy)
    restored = restore(journal, state, 0.0, sequence)
    size = 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for part in checkpoint.dump(state, restored.epoch, restored.base, restored.cursors.values()):
            size += len(part)
            yield part

    journal.write_checkpoint(restored.sequence, counted())
    return size


async def start(orders: dict[str, Any]) -> tuple[Service, dict[str, Any]]:
    """Fold as ordered, and report; the scheduler has the cores first, unless it writes faster than this folds."""
    if not orders["hurry"]:
        os.nice(10)
    engine = open_engine(orders["database"])
    journal = Journal(engine, orders["cluster"], orders["epoch"], Seal(orders["secret"].encode()))
    try:
        # In a thread, so that the end of the parent is noticed meanwhile.
        size = await asyncio.to_thread(fold, journal, orders["sequence"], Policy(**orders["policy"]))
    finally:
        journal.close()
    return _Done(), {"bytes": size}


def main() -> None:
    """Fold, say so, and end."""
    serve_parent(start)
