"""The executors of a worker as a crew: ending one, and having fewer."""

from __future__ import annotations

from futurebroker.worker.executors import Executor


def end(running: dict[int, Executor], number: int) -> None:
    """End an executor's process at once; threads can't be ended."""
    executor = running.get(number)
    if executor is not None:
        executor.kill()
