"""Names of queues: they carry the cluster and the protocol's version, so that two versions never share a queue."""

from __future__ import annotations

#: changes whenever a queue's settings or the meaning of what it carries do
PREFIX = "fb1"
#: deliveries of a command queue that its reader may hold unacknowledged
COMMAND_PREFETCH = 300


def command_queue(cluster: str) -> str:
    """Where clients and workers reach the scheduler that is active."""
    return f"{PREFIX}.{cluster}.cmd"


def event_queue(cluster: str, epoch: int) -> str:
    """The inbox of the scheduler of one epoch; gone with it."""
    return f"{PREFIX}.{cluster}.evt.{epoch}"


def worker_inbox(cluster: str, worker: str, generation: int) -> str:
    """A worker's inbox; the generation counts its connections, as a half-open one keeps the former inbox locked."""
    return f"{PREFIX}.{cluster}.w.{worker}.{generation}"


def client_inbox(cluster: str, client: str, generation: int) -> str:
    """A client's inbox; see `worker_inbox`."""
    return f"{PREFIX}.{cluster}.c.{client}.{generation}"
