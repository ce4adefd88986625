"""What a task can ask about where it runs: `get_worker`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from futurebroker.exceptions import TaskError
from futurebroker.inside import current_task
from futurebroker.types import Key, WorkerId


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Where the current task runs."""

    name: str  #: of the worker
    id: WorkerId
    key: Key  #: of the current task
    pid: int  #: of the executor process
    resources: dict[str, float]  #: the worker offers in all


def get_worker() -> WorkerContext:
    """Where this task runs.

    Raises:
        TaskError: this isn't a task.
    """
    try:
        place, key, *_ = current_task.get()
    except LookupError:
        raise TaskError("get_worker() works only inside a task") from None
    return WorkerContext(place.name, place.id, key, os.getpid(), place.resources)
