"""What a task can ask about where it runs: `get_worker`."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass, field

from futurebroker.exceptions import TaskError
from futurebroker.types import Key, WorkerId


@dataclass(frozen=True, slots=True)
class Place:
    """An executor's worker; the same for all tasks it runs."""

    name: str
    id: WorkerId
    resources: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Where the current task runs."""

    name: str  #: of the worker
    id: WorkerId
    key: Key  #: of the current task
    pid: int  #: of the executor process
    resources: dict[str, float]  #: the worker offers in all


#: set by the executor for each task; a plain pair, because it is set far more often than read
current_task: ContextVar[tuple[Place, Key]] = ContextVar("current_task")


def get_worker() -> WorkerContext:
    """Where this task runs.

    Raises:
        TaskError: this isn't a task.
    """
    try:
        place, key = current_task.get()
    except LookupError:
        raise TaskError("get_worker() works only inside a task") from None
    return WorkerContext(place.name, place.id, key, os.getpid(), place.resources)
