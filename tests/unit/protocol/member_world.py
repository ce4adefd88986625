"""A cluster for members to join: a scheduler that answers and does nothing, and who owns a member."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from futurebroker.protocol.attachment import Attachment
from futurebroker.protocol.member import Member
from futurebroker.protocol.messages import (
    Goodbye,
    Hello,
    MeetAgain,
    Refused,
    Welcome,
)
from futurebroker.protocol.messages import Heard as Answered
from futurebroker.protocol.queues import command_queue
from futurebroker.transport import memory
from futurebroker.transport.base import Link, Queue, QueueKind
from futurebroker.transport.registry import open_link
from futurebroker.types import Peer, Role
from tests.unit.protocol.parties import SECRET, Heard, Party


class Owner(Heard):
    """What a member tells."""

    def __init__(self) -> None:
        super().__init__()
        self.delivered: list[Any] = []
        self.welcomes: list[tuple[Welcome, bool]] = []
        self.losses: list[Exception | None] = []
        self.trips: list[float] = []
        self.paces: list[float] = []
        self.refusals: list[str] = []
        self.on_welcome: Callable[[], object] = lambda: None

    def deliver(self, messages: list[Any]) -> None:
        """See `MemberEvents.deliver`."""
        self.delivered += messages
        self.happened()

    def welcomed(self, welcome: Welcome, fresh: bool) -> None:
        """See `MemberEvents.welcomed`."""
        self.welcomes.append((welcome, fresh))
        self.on_welcome()
        self.happened()

    def heard(self, round_trip: float) -> None:
        """See `MemberEvents.heard`."""
        self.trips.append(round_trip)
        self.happened()

    def paced(self, seconds: float) -> None:
        """See `MemberEvents.paced`."""
        self.paces.append(seconds)
        self.happened()

    def lost(self, error: Exception | None) -> None:
        """See `MemberEvents.lost`."""
        self.losses.append(error)
        self.happened()

    def refused(self, reason: str) -> None:
        """See `MemberEvents.refused`."""
        self.refusals.append(reason)
        self.happened()


class Scheduler(Party):
    """Welcomes whoever says hello, as the real one does; `answers` says what it does about it."""

    def __init__(self, broker: str, incarnation: str = "1") -> None:
        super().__init__(Role.SCHEDULER, "scheduler", broker, incarnation=incarnation)
        self.endpoint.epoch = 1
        self.refusal = ""
        self.deaf = False
        self.hellos: list[Hello] = []
        self.commands = open_link(
            f"memory://{broker}",
            [Queue(command_queue("c"), QueueKind.COMMAND)],
            secret=SECRET,
            timeout=1,
            name="commands",
        )
        Attachment(self.endpoint._loop, self.commands, self.endpoint.turn).begin(self)

    def received(self, queue: str, body: bytes, tag: int) -> None:
        """A command arrives on the other link."""
        self.commands.ack(tag)
        self.endpoint.received(queue, body, 0)

    def turn(self, call: Callable[[], None]) -> None:
        """See `LinkEvents.turn`."""
        self.endpoint.turn(call)

    def confirmed(self) -> None:
        """See `LinkEvents.confirmed`."""

    def blocked(self, is_blocked: bool) -> None:
        """See `LinkEvents.blocked`."""

    def meet(self, peer: Peer, message: Any) -> None:
        """See `EndpointEvents.meet`."""
        super().meet(peer, message)
        if isinstance(message, Hello):
            self.hellos.append(message)
            if not self.deaf:
                self._greet(peer, message)
        elif not isinstance(message, Goodbye) and not self.deaf:
            self.endpoint.send_meeting(peer, message.inbox, Answered())

    def _greet(self, peer: Peer, hello: Hello) -> None:
        if self.refusal:
            self.endpoint.send_meeting(peer, hello.inbox, Refused(self.refusal))
        elif self.endpoint.peer(peer.name) != peer and hello.epoch:
            self.endpoint.send_meeting(peer, hello.inbox, MeetAgain(peer.incarnation, forgotten=True))
        else:
            received = self.endpoint.received_up_to(peer.name) if self.endpoint.peer(peer.name) == peer else 0
            self.endpoint.send_meeting(peer, hello.inbox, Welcome(1, received, self.queue))
            self.endpoint.open(peer, hello.inbox, hello.received)

    def end(self) -> None:
        """Be gone, as a process that was killed."""
        self.endpoint.close()
        self.commands.close()


class World:
    """A member, and a scheduler for it."""

    def __init__(self) -> None:
        self.broker = secrets.token_hex(6)
        # keeps the broker when no scheduler is there, as an external one stays
        self.keeper = open_link(f"memory://{self.broker}", [], secret=SECRET, timeout=1, name="keeper")
        self.scheduler = Scheduler(self.broker)
        self.owner = Owner()
        self.member = self.make(self.owner)

    def make(
        self, owner: Owner, url: str = "", name: str = "w1", share: Callable[[Link, str], Link] | None = None
    ) -> Member:
        """Another member."""
        return Member(
            Role.WORKER,
            name,
            url=url or f"memory://{self.broker}",
            cluster="c",
            secret=SECRET,
            events=owner,
            loop=asyncio.get_running_loop(),
            info=lambda: {"slots": 2},
            share=share,
        )

    def cut(self) -> None:
        """Break the member's link."""
        link = self.member._endpoint._link
        assert link is not None
        link.close()

    async def end(self) -> None:
        """Leave nothing."""
        await self.member.close()
        self.scheduler.end()
        self.keeper.close()
        assert self.broker not in memory._brokers


def in_a_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def run() -> None:
        world = World()
        try:
            await scenario(world)
        finally:
            await world.end()

    asyncio.run(run())
