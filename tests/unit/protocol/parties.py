"""Endpoints on links inside this process, and waiting for what they hear."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from futurebroker.protocol.endpoint import Endpoint
from futurebroker.protocol.wire import Header, Keyring, Kind
from futurebroker.transport.base import Queue, QueueKind
from futurebroker.transport.memory import MemoryLink
from futurebroker.transport.registry import open_link
from futurebroker.types import Peer, Role

SECRET = b"a secret for the tests of protocol"
KEYRING = Keyring(SECRET)
PATIENCE = 5.0


class Heard:
    """Things that happened, and waiting until enough of them did."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def happened(self) -> None:
        """Something did; who waits looks again."""
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once ``condition`` holds; it is looked at whenever something happened."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Watched:
    """A memory link that keeps what was sent through it, and can be made to ask for silence."""

    def __init__(self, link: MemoryLink) -> None:
        self.link = link
        self.sent: list[tuple[str, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)

    def send(self, destination: str, body: bytes, *, durable: bool = False, mandatory: bool = False) -> None:
        """See `Link.send`."""
        self.sent.append((destination, body))
        self.link.send(destination, body, durable=durable, mandatory=mandatory)


class Party(Heard):
    """One endpoint with an inbox, and everything its owner is told."""

    def __init__(
        self,
        role: Role,
        name: str,
        broker: str,
        *,
        cluster: str = "c",
        incarnation: str = "1",
        kind: type[Endpoint] = Endpoint,
    ) -> None:
        super().__init__()
        self.me = Peer(role, name, incarnation)
        self.broker = broker
        self.queue = ""
        self.generation = 0
        self.delivered: list[Any] = []
        #: how many messages each delivery had
        self.bursts: list[int] = []
        self.met: list[tuple[Peer, Any]] = []
        self.strangers: list[Peer] = []
        self.returns: list[str] = []
        self.ends: list[Exception | None] = []
        self.blocks: list[bool] = []
        self.on_deliver: Callable[[Any], object] = lambda message: None
        loop = asyncio.get_running_loop()
        self.endpoint = kind(self.me, cluster, KEYRING, self, loop, on_blocked=self.blocks.append)
        self.link: Watched
        self.attach()

    def attach(self) -> None:
        """Open a link with an inbox of a new name."""
        self.generation += 1
        self.queue = f"in.{self.me.name}.{self.generation}"
        link = open_link(
            f"memory://{self.broker}", [Queue(self.queue, QueueKind.INBOX)], secret=SECRET, timeout=1, name="test"
        )
        assert isinstance(link, MemoryLink)
        self.link = Watched(link)
        self.endpoint.attach(self.link)

    def open(self, other: Party) -> None:
        """Begin or go on with the session with another party, as a hello would."""
        self.endpoint.open(other.me, other.queue, other.endpoint.received_up_to(self.me.name))

    async def got(self, count: int) -> list[Any]:
        """What was delivered, once there are ``count`` messages."""
        await self.until(lambda: len(self.delivered) >= count)
        return self.delivered

    def data_envelopes(self) -> int:
        """How many numbered envelopes went out."""
        return sum(self._kind_of(body) == Kind.DATA for _, body in self.link.sent)

    def _kind_of(self, body: bytes) -> int:
        other = Role.WORKER if self.me.role is Role.SCHEDULER else Role.SCHEDULER
        return KEYRING.open(body, other)[1].kind

    def inject(self, body: bytes) -> None:
        """Have bytes arrive as if from the broker."""
        self.endpoint.received(self.queue, body, 0)

    # -- endpoint events ---------------------------------------------------------------------------------------------

    def deliver(self, peer: Peer, messages: list[Any]) -> None:
        """See `EndpointEvents.deliver`."""
        self.bursts.append(len(messages))
        self.delivered += messages
        self.happened()
        for message in messages:
            self.on_deliver(message)

    def meet(self, peer: Peer, message: Any) -> None:
        """See `EndpointEvents.meet`."""
        self.met.append((peer, message))
        self.happened()

    def stranger(self, peer: Peer) -> None:
        """See `EndpointEvents.stranger`."""
        self.strangers.append(peer)
        self.happened()

    def returned(self, destination: str) -> None:
        """See `EndpointEvents.returned`."""
        self.returns.append(destination)
        self.happened()

    def disconnected(self, error: Exception | None) -> None:
        """See `EndpointEvents.disconnected`."""
        self.ends.append(error)
        self.happened()


class Pair:
    """A scheduler's and a worker's endpoint that have met."""

    def __init__(self, kind: type[Endpoint] = Endpoint) -> None:
        broker = secrets.token_hex(6)
        self.scheduler = Party(Role.SCHEDULER, "scheduler", broker, kind=kind)
        self.worker = Party(Role.WORKER, "w1", broker, kind=kind)
        self.scheduler.open(self.worker)
        self.worker.open(self.scheduler)

    async def __aenter__(self) -> Pair:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.scheduler.endpoint.close()
        self.worker.endpoint.close()


def envelope(
    body: bytes, *, sequence: int = 1, ack: int = 0, sender: str = "w1", incarnation: str = "1", cluster: str = "c"
) -> bytes:
    """A numbered envelope of a worker to the scheduler."""
    header = Header(Kind.DATA, cluster, sender, incarnation, "scheduler", 0, sequence, ack)
    return KEYRING.seal(Role.WORKER, Role.SCHEDULER, header, body)
