"""What a peer's socket needs of the broker that accepted it."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from typing import Any, Protocol

from futurebroker.broker_adapters.embedded.entities import Entities
from futurebroker.broker_adapters.embedded.queues import MessageQueue


class Broker(Protocol):
    """What a peer needs of the broker it is connected to."""

    loop: AbstractEventLoop
    entities: Entities
    user: str
    password: str
    heartbeat: int
    version: str

    def mark(self, peer: Any) -> None:
        """The peer has output; write it before long."""

    def written_soon(self) -> None:
        """Whatever was marked is written at the end of this turn of the loop."""

    def begin_turn(self) -> None:
        """`hand_over` follows: the links in the broker's own process need not be woken until then."""

    def hand_over(self) -> None:
        """Let the links in the broker's own process take what waits for them now, not in the loop's next turn."""

    def touch(self, queue: MessageQueue) -> None:
        """The queue was used."""

    def login_refused(self, address: str) -> None:
        """Someone at ``address`` came with a wrong password."""

    def gone(self, peer: Any) -> None:
        """The peer's socket is closed and all it had is taken down."""
