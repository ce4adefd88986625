"""A member that leaves has the broker keep what no scheduler acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from futurebroker.protocol import member as rules
from futurebroker.protocol import session
from futurebroker.protocol.member import Member
from futurebroker.protocol.messages import (
    GaveBack,
)
from futurebroker.protocol.queues import command_queue
from futurebroker.transport.base import Link
from tests.unit.protocol.member_world import Owner, World, in_a_world


class KeepingLink:
    """A link whose broker keeps commands and confirms them when the test says so."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.capabilities = replace(link.capabilities, durable=True, confirms=True)
        self.asked = asyncio.Event()
        #: of what was sent, in order, whether the broker is to keep it
        self.durable: list[bool] = []

    def send(self, destination: str, body: bytes, *, durable: bool = False, mandatory: bool = False) -> None:
        """See `Link.send`."""
        self.durable.append(durable)
        self._link.send(destination, body, durable=durable, mandatory=mandatory)

    def begin_confirms(self) -> None:
        """See `Link.begin_confirms`."""
        self.asked.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def leaving(world: World) -> tuple[Member, Callable[[], KeepingLink]]:
    """A member of a cluster whose commands are kept by the broker, and its link once it has one."""
    world.scheduler.queue = command_queue("c")
    links: list[KeepingLink] = []

    def keep(link: Link, _inbox: str) -> Link:
        links.append(KeepingLink(link))
        return cast(Link, links[-1])

    return world.make(Owner(), name="w2", share=keep), lambda: links[-1]


def test_who_leaves_waits_until_the_broker_has_what_no_scheduler_acknowledged() -> None:
    """Then the process may end, and the broker after it, and a scheduler that comes later still reads it."""

    async def scenario(world: World) -> None:
        member, link = leaving(world)
        await member.connect(5)
        member.send(GaveBack("a", 1))
        closing = asyncio.ensure_future(member.close())
        await link().asked.wait()
        # once for a scheduler that hears it now, once with the goodbye for one that comes later
        await asyncio.sleep(0)
        assert link().durable[-3:] == [False, True, True]
        assert await world.scheduler.got(1) == [GaveBack("a", 1)]
        assert not closing.done()
        member._endpoint.confirmed()
        await closing

    in_a_world(scenario)


def test_who_leaves_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker may have stopped answering, which is perhaps why it is left."""
    monkeypatch.setattr(rules, "CONFIRM_TIMEOUT", 0.01)

    async def scenario(world: World) -> None:
        member, link = leaving(world)
        await member.connect(5)
        member.send(GaveBack("a", 1))
        await member.close()
        assert link().asked.is_set()

    in_a_world(scenario)


def test_who_has_said_nothing_that_is_open_asks_for_no_confirmation() -> None:
    """It costs the broker a write to its disk."""

    async def scenario(world: World) -> None:
        member, link = leaving(world)
        await member.connect(5)
        await member.close()
        assert not link().asked.is_set()

    in_a_world(scenario)


def test_what_nobody_acknowledges_is_kept_by_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that hears has it before a disk could; of one that doesn't, nobody knows when it will."""
    monkeypatch.setattr(session, "RESEND_AFTER", 0.01)

    async def scenario(world: World) -> None:
        member, link = leaving(world)
        await member.connect(5)
        member.send(GaveBack("a", 1))
        member.flush()
        assert not any(link().durable)
        world.scheduler.endpoint.forget("w2")  # what comes isn't answered any more
        while not any(link().durable):
            await asyncio.sleep(0)
        member.send(GaveBack("b", 1))
        member.flush()
        assert link().durable[-1]
        await member.close()

    in_a_world(scenario)
