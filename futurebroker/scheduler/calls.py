"""Questions the scheduler can answer only later: functions called on workers, and waits for a number of workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from futurebroker.protocol.messages import Failure
from futurebroker.types import ClientId, WorkerId


@dataclass(slots=True)
class PendingCall:
    """A `client.run` on its way: who asked, and which workers have not answered."""

    client: ClientId
    number: int  #: the client's own
    missing: dict[WorkerId, None]
    results: dict[WorkerId, tuple[bytes | None, Failure | None]] = field(default_factory=dict)


@dataclass(slots=True)
class PendingCount:
    """A `wait_for_workers` on its way."""

    client: ClientId
    number: int
    at_least: int
