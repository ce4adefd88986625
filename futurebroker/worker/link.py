"""What a worker needs of its conversation with the scheduler; tests have one of their own in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from futurebroker.protocol.messages import Message


class SchedulerLink(Protocol):
    """The part of `Member` that a worker uses."""

    @property
    def bulk_url(self) -> str:
        """See `Member.bulk_url`."""

    async def connect(self, timeout: float) -> None:
        """Join the cluster."""

    def send(self, *messages: Message) -> None:
        """Send numbered messages."""

    def send_now(self, *messages: Message) -> None:
        """As `send`, and let them leave at once."""

    def flush(self) -> None:
        """Send now what collected."""

    def heartbeat(self, status: str, metrics: dict[str, Any]) -> None:
        """Send a heartbeat."""

    async def close(self, reason: str = "") -> None:
        """Say goodbye."""


LinkFactory = Callable[..., SchedulerLink]
