"""A scheduler's process behind a broker in this process, and members that join it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.protocol.member import Member
from futurebroker.scheduler.presence import Contact
from futurebroker.scheduler.service import SchedulerService
from futurebroker.transport.registry import open_link
from futurebroker.types import Role
from tests.unit.protocol.parties import Heard

SECRET = b"a secret for the tests of service"
FUNCTION = b"f" * 16


class Joined(Heard):
    """A member as a worker or client has one, and everything it was told."""

    def __init__(self, world: World, role: Role, name: str, info: dict[str, Any]) -> None:
        super().__init__()
        self.said: list[Any] = []
        self.welcomes: list[bool] = []
        self.trips = 0
        self.paces: list[float] = []
        self.refusals: list[str] = []
        #: a worker runs what it is sent, at once
        self.works = role is Role.WORKER
        self.member = Member(
            role,
            name,
            url=world.url,
            cluster="c",
            secret=SECRET,
            events=self,
            loop=asyncio.get_running_loop(),
            info=lambda: info,
        )

    def deliver(self, messages: list[Any]) -> None:
        """See `MemberEvents.deliver`."""
        self.said += messages
        for message in messages:
            if self.works and isinstance(message, m.Run):
                self.member.send(m.Finished(message.key, message.attempt, 1, 1, b"v"))
        self.happened()

    def welcomed(self, welcome: m.Welcome, fresh: bool) -> None:
        """See `MemberEvents.welcomed`."""
        self.welcomes.append(fresh)
        self.happened()

    def heard(self, round_trip: float) -> None:
        """See `MemberEvents.heard`."""
        self.trips += 1
        self.happened()

    def paced(self, seconds: float) -> None:
        """See `MemberEvents.paced`."""
        self.paces.append(seconds)
        self.happened()

    def lost(self, error: Exception | None) -> None:
        """See `MemberEvents.lost`."""
        self.happened()

    def refused(self, reason: str) -> None:
        """See `MemberEvents.refused`."""
        self.refusals.append(reason)
        self.happened()

    def cut(self, *, for_good: bool = False) -> None:
        """Break the link, as a dying process or network does."""
        if for_good:
            self.member._closed = True
        link = self.member._endpoint._link
        assert link is not None
        link.close()

    def submit(self, *keys: str, options: m.TaskOptions | None = None) -> None:
        """Submit calls of a function."""
        self.member.send(m.AddFunction(FUNCTION, "inc", b"code"))
        self.member.send(m.Submit(FUNCTION, list(keys), [b"args"] * len(keys), None, options))

    async def told(self, kind: type[Any], count: int = 1) -> list[Any]:
        """The messages of a kind, once there are ``count``."""
        await self.until(lambda: sum(isinstance(one, kind) for one in self.said) >= count)
        return [one for one in self.said if isinstance(one, kind)]

    async def beat(self, **metrics: Any) -> None:
        """A heartbeat, answered."""
        before = self.trips
        self.member.heartbeat("running", metrics)
        await self.until(lambda: self.trips > before)


class Observed(SchedulerService):
    """A scheduler that keeps whom it suspected and forgot."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.notes = Heard()
        self.suspected: list[str] = []
        self.forgotten: list[str] = []

    def _suspect(self, contact: Contact) -> None:
        super()._suspect(contact)
        self.suspected.append(contact.peer.name)
        self.notes.happened()

    def _forget(self, name: str) -> None:
        super()._forget(name)
        self.forgotten.append(name)
        self.notes.happened()


class World:
    """A scheduler behind a broker that doesn't end with it, and whoever joins."""

    def __init__(self, **settings: Any) -> None:
        self.url = f"memory://{secrets.token_hex(6)}"
        self.keeper = open_link(self.url, [], secret=SECRET, timeout=1, name="keeper")
        self.settings = {"suspect_grace": 0.0, "client_grace": 0.0, "validate": True, **settings}
        self.joined: list[Joined] = []
        #: what the loop was told of, which nobody caught
        self.mistakes: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: self.mistakes.append(about["exception"]))
        self.service: Observed

    async def start(self) -> None:
        """Begin with a scheduler that knows nothing."""
        self.service = Observed(cluster="c", secret=SECRET, broker_url=self.url, **self.settings)
        await self.service.start()

    async def worker(self, network_name: str = "w1", /, **info: Any) -> Joined:
        """A worker that has joined."""
        return await self._join(Role.WORKER, network_name, {"name": network_name, "slots": 1, **info})

    async def client(self, network_name: str = "c1", /, **info: Any) -> Joined:
        """A client that has joined."""
        return await self._join(Role.CLIENT, network_name, info)

    async def _join(self, role: Role, name: str, info: dict[str, Any]) -> Joined:
        joined = Joined(self, role, name, info)
        self.joined.append(joined)
        await joined.member.connect(5)
        return joined

    async def end(self) -> None:
        """Leave nothing."""
        for joined in self.joined:
            joined.member._closed = False
            await joined.member.close()
        await self.service.close()
        await self.service.close()
        await self.service.finished()
        self.keeper.close()


def in_a_world(scenario: Callable[[World], Awaitable[None]], **settings: Any) -> None:
    """Run a scenario."""

    async def run() -> None:
        world = World(**settings)
        await world.start()
        try:
            await scenario(world)
        finally:
            await world.end()

    asyncio.run(run())
