"""When the journal is folded into a checkpoint, and the process that does it beside the scheduler."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import Any

from futurebroker.processes import Child, apart
from futurebroker.scheduler.durability import Durability
from futurebroker.scheduler.restoring import Restored
from futurebroker.scheduler.state import Policy

logger = logging.getLogger("futurebroker.scheduler")

#: seconds between a fold that failed and the next
AGAIN = 10.0
#: times what is due for folding that the journal may have; until it is folded nothing more is written then
MOST = 4
#: times what is due from which on a fold doesn't leave the cores to others
HURRY = 2


class Folding:
    """Starts a `folder` when the journal has grown by as much as the last checkpoint, and by ``limit`` at least.

    So the work of folding grows no faster than what is written. A journal that is written faster than it is folded
    waits when it has `MOST` times as much; unless folding fails, for then it must grow.
    """

    def __init__(
        self, database: str, secret: bytes, durability: Durability, restored: Restored, policy: Policy, limit: int
    ) -> None:
        self.folds = 0
        self._database = database
        self._secret = secret
        self._durability = durability
        self._policy = policy
        self._limit = limit
        self._folded_bytes = restored.folded_bytes
        #: bytes of journal that a next fold will take
        self._waiting = restored.bytes
        self._counted = durability.written
        self._failed = False
        self._child: Child | None = None
        self._sequence = 0
        #: bytes of journal that are being folded
        self._taken = 0
        self._not_before = 0.0
        self._loop = asyncio.get_running_loop()

    def figures(self) -> dict[str, int]:
        """For who looks at the scheduler: bytes of journal, at how many it is folded, and bytes of the checkpoint."""
        return {
            "journal_bytes": self._waiting + self._durability.written - self._counted,
            "journal_limit": max(self._limit, self._folded_bytes),
            "checkpoint_bytes": self._folded_bytes,
        }

    def look(self) -> None:
        """Start a fold if it is time."""
        written = self._durability.written
        self._waiting += written - self._counted
        self._counted = written
        due = max(self._limit, self._folded_bytes)
        # Rows that are being folded are there until that is done.
        there = self._waiting + (self._taken if self._child is not None else 0)
        self._durability.most = None if self._failed else written + MOST * due - there
        if self._waiting > due and self._child is None and self._loop.time() >= self._not_before:
            self._start(hurry=self._waiting > HURRY * due)

    def _start(self, *, hurry: bool) -> None:
        journal = self._durability.journal
        self._sequence = self._durability.sequence
        self._taken, self._waiting = self._waiting, 0
        child = self._child = Child("checkpoint", "futurebroker.scheduler.folder")
        child.order(
            {
                "database": self._database,
                "secret": self._secret.decode(),
                "cluster": journal.cluster,
                "epoch": journal.epoch,
                "sequence": self._sequence,
                "policy": asdict(self._policy),
                "hurry": hurry,
                "log_level": logging.getLevelName(logger.getEffectiveLevel()).lower(),
            }
        )
        self._loop.add_reader(child.fileno(), self._reported)

    def _reported(self) -> None:
        child = self._child
        if child is None:
            return
        self._loop.remove_reader(child.fileno())
        self._child = None
        try:
            report: dict[str, Any] = child.report(1.0)
        except Exception as error:  # noqa: BLE001 - whatever it was, the journal is whole; it is tried again
            logger.warning("the journal could not be folded, it grows on: %s", error)
            self._waiting += self._taken
            self._failed = True
            self._not_before = self._loop.time() + AGAIN
        else:
            self.folds += 1
            self._failed = False
            self._folded_bytes = report["bytes"]
            logger.info("folded the journal up to row %d into %.1f MiB", self._sequence, report["bytes"] / 2**20)
        self._loop.run_in_executor(None, child.end)
        self.look()

    async def close(self) -> None:
        """End what runs; half a checkpoint counts for nothing."""
        child, self._child = self._child, None
        if child is not None:
            self._loop.remove_reader(child.fileno())
            await apart(child.end)
