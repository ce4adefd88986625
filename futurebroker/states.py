"""The states of tasks, futures and workers, each defined in one sentence."""

from __future__ import annotations

from enum import Enum


class TaskState(Enum):
    """Where a task stands on the scheduler."""

    __hash__ = object.__hash__  # members are compared by identity; Enum's own hash is a slow call for each counter

    RELEASED = "released"  #: known, not wanted as a result now; it can be computed again
    WAITING = "waiting"  #: some dependency is not in memory yet
    SCHEDULED = "scheduled"  #: has all it needs but its time, which hasn't come
    NO_WORKER = "no_worker"  #: ready, but no connected worker may run it
    QUEUED = "queued"  #: ready, and kept on the scheduler until a worker has room
    PROCESSING = "processing"  #: sent to a worker; not reported back
    MEMORY = "memory"  #: its result is held by a worker, or by the scheduler when it is small
    ERRED = "erred"  #: it, or something it depends on, failed for good
    FORGOTTEN = "forgotten"  #: nobody can ask for it any more; the record is gone


class FutureState(Enum):
    """What a client knows of a future."""

    PENDING = "pending"  #: not finished, as far as the client has been told
    FINISHED = "finished"  #: the result can be fetched
    ERROR = "error"  #: the task, or something it depends on, failed
    CANCELLED = "cancelled"  #: cancelled by a client, or its data is lost for good
    LOST = "lost"  #: the only copy went with a worker; it is being computed again


class WorkerStatus(Enum):
    """Whether a worker takes work."""

    RUNNING = "running"  #: takes work
    PAUSED = "paused"  #: over its memory threshold: finishes what runs, starts nothing
    SUSPECT = "suspect"  #: silent or disconnected; what it runs is not given away before the grace time ends
    CLOSING = "closing"  #: drains: hands back what it has not begun, and leaves
