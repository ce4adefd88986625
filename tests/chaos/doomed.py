"""A scheduler that kills itself, as `kill -9` would, at a chosen step of writing the journal; and then another.

``python -m tests.chaos.doomed STEP PORT URL`` forks one scheduler after the other at PORT. Each ends at
one of its first batches: before it is appended, inside its commit, after that and before anybody is told, or after all
were told. A line is printed for each that has ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from sqlalchemy import event

import futurebroker.scheduler.durable  # noqa: F401  # loaded once, before the first fork
from futurebroker import logs
from futurebroker.config import load_settings, scheduler_conduct
from futurebroker.persistence.journal import Journal
from futurebroker.scheduler import durability
from futurebroker.scheduler.main import begin

STEPS = ("before append", "inside commit", "after commit", "after ack")
#: each scheduler ends at one of its first batches; the first of all is the row that it begins with
BATCHES = 7


def die(*_: object) -> None:
    """As `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def doom(step: str, batch: int) -> None:
    """See to it that this process ends at ``step`` of the ``batch``-th batch from now."""
    append, done = Journal.append, durability.Durability._done
    count = 0

    def doomed_append(self: Journal, *row: Any) -> None:
        nonlocal count
        count += 1
        if count == batch and step == "before append":
            die()
        if count == batch and step == "inside commit":
            event.listen(self.engine, "commit", die)
        append(self, *row)
        if count >= batch and step == "after commit":  # an attempt may have found the file locked
            die()

    def doomed_done(self: durability.Durability, written: Any) -> None:
        done(self, written)
        if count >= batch and step == "after ack":
            self._endpoint.flush()
            die()

    setattr(Journal, "append", doomed_append)  # noqa: B010
    setattr(durability.Durability, "_done", doomed_done)  # noqa: B010


def broken(loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
    """A law of the scheduler's state doesn't hold, or something else raised that must not."""
    loop.default_exception_handler(about)
    os._exit(3)


async def serve(port: int, database: str) -> None:
    """Serve until doom comes."""
    settings = load_settings()
    orders = {
        "cluster": settings.cluster,
        "secret": settings.secret,
        "broker_url": None,
        "host": "127.0.0.1",
        "port": port,
        "storage": {"mode": "process", "database": database},
        **scheduler_conduct(settings),
        "validate": True,
    }
    asyncio.get_running_loop().set_exception_handler(broken)
    service = await begin(orders)
    await service.finished()


def main(step: str, port: int, database: str) -> None:
    """Fork schedulers until this process is ended."""
    life = 0
    while True:
        life += 1
        child = os.fork()
        if not child:
            doom(step, 2 + life % BATCHES)
            asyncio.run(serve(port, database))
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status
        print(life, flush=True)


if __name__ == "__main__":
    logs.start_logging("warning", "text", hidden=[], fields=dict)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
