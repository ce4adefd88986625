"""What an endpoint tells the process it belongs to."""

from __future__ import annotations

from typing import Any, Protocol

from futurebroker.types import Peer


class EndpointEvents(Protocol):
    """What an endpoint tells its owner, on the loop's thread.

    What these raise goes to the loop's exception handler, and the endpoint goes on with what came next.
    """

    def deliver(self, peer: Peer, messages: list[Any]) -> None:
        """Numbered messages, in order, each once."""

    def meet(self, peer: Peer, message: Any) -> None:
        """A message outside the session: hello, welcome, heartbeat, goodbye."""

    def stranger(self, peer: Peer) -> None:
        """Numbered messages came from a peer without a session; it has to say hello (again). They were dropped."""

    def returned(self, destination: str) -> None:
        """The inbox ``destination`` has ended with its owner's connection."""

    def disconnected(self, error: Exception | None) -> None:
        """The link is gone; sessions keep what isn't acknowledged until `Endpoint.attach` and `Endpoint.open`."""
