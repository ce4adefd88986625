"""Names of the queues; each carries the cluster and the protocol's version, so that neither mixes with another."""

from __future__ import annotations

from futurebroker.protocol.messages import PROTOCOL


def command_queue(cluster: str) -> str:
    """Where clients write to, and where everybody says hello; read by the scheduler."""
    return f"fb{PROTOCOL}.{cluster}.cmd"


def dead_queue(cluster: str) -> str:
    """Where the scheduler parks commands that it can't trust, each with the reason; read by an operator."""
    return f"fb{PROTOCOL}.{cluster}.dead"


def event_queue(cluster: str, incarnation: str) -> str:
    """Where workers write to; belongs to one incarnation of the scheduler."""
    return f"fb{PROTOCOL}.{cluster}.evt.{incarnation}"


def inbox(cluster: str, name: str, generation: int) -> str:
    """Where a worker or client reads; a new one for each connection, because an old one may still be locked."""
    return f"fb{PROTOCOL}.{cluster}.in.{name}.{generation}"


def bulk_inbox(cluster: str, name: str, generation: int) -> str:
    """Where a worker or client reads parts of results, on a second connection; a new one for each."""
    return f"fb{PROTOCOL}.{cluster}.bulk.{name}.{generation}"


def token_queue(cluster: str) -> str:
    """Where a broker keeps a token for each worker's connection, and gives it to the scheduler when that ends."""
    return f"fb{PROTOCOL}.{cluster}.token"
