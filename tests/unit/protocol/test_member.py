"""A member joins, says why it can't, stays through cuts and other schedulers, and leaves nothing when it goes."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from futurebroker import __version__
from futurebroker.exceptions import ClusterConnectionError, NoSchedulerError, RefusedError
from futurebroker.protocol import member as rules
from futurebroker.protocol import session
from futurebroker.protocol.attachment import Attachment
from futurebroker.protocol.member import Member
from futurebroker.protocol.messages import (
    PROTOCOL,
    Drop,
    Finished,
    GaveBack,
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


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of seconds are what a network needs, not a test."""
    monkeypatch.setattr(rules, "HELLO_EVERY", 0.05)
    monkeypatch.setattr(rules, "RECONNECT_FIRST", 0.005)


# -- joining -------------------------------------------------------------------------------------------------------


def test_what_is_sent_before_the_welcome_arrives_after_it() -> None:
    """A client's first calls need not wait for its connection."""

    async def scenario(world: World) -> None:
        world.member.send(GaveBack("a", 1))
        await world.member.connect(5)
        world.member.send(GaveBack("b", 1))
        assert await world.scheduler.got(2) == [GaveBack("a", 1), GaveBack("b", 1)]
        [hello] = world.scheduler.hellos
        assert (hello.protocol, hello.epoch, hello.received) == (PROTOCOL, 0, 0)
        assert hello.info == {"slots": 2, "version": __version__}
        assert hello.python == f"{sys.version_info.major}.{sys.version_info.minor}"
        assert [fresh for _, fresh in world.owner.welcomes] == [True]
        world.scheduler.endpoint.send("w1", Drop("c", 1))
        await world.owner.until(lambda: world.owner.delivered)

    in_a_world(scenario)


def test_without_a_scheduler_the_error_names_address_and_command() -> None:
    """The commonest first mistake: the user is told what to type."""

    async def scenario(world: World) -> None:
        world.scheduler.deaf = True
        with pytest.raises(NoSchedulerError) as told:
            await world.member.connect(0.2)
        assert f"memory://{world.broker} within 0.2 s (connected to the broker, but no scheduler" in str(told.value)
        assert f"futurebroker scheduler --broker memory://{world.broker}" in str(told.value)
        assert len(world.scheduler.hellos) > 1  # a lost hello is not the end

    in_a_world(scenario)


def test_where_nobody_listens_the_error_says_so_and_hides_the_password() -> None:
    """The address is what the user gave, the port included, without what others must not read."""

    async def scenario(world: World) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            member = world.make(Owner(), f"amqp://me:hidden@127.0.0.1:{port}")
            with pytest.raises(NoSchedulerError, match=rf"refused.*futurebroker scheduler --port {port}") as told:
                await member.connect(2.0)  # the first try loads what speaks AMQP
        assert "hidden" not in str(told.value)

    in_a_world(scenario)


def test_a_refusal_is_raised_with_its_reason() -> None:
    """Another Python or protocol won't fit later either: nothing is tried again."""

    async def scenario(world: World) -> None:
        world.scheduler.refusal = "it runs Python 3.9 and the scheduler Python 3.11"
        with pytest.raises(RefusedError, match="Python 3.9 and the scheduler Python 3.11"):
            await world.member.connect(5)
        assert len(world.scheduler.hellos) == 1
        assert not world.member.connected

    in_a_world(scenario)


def test_closing_while_it_connects_ends_the_attempt_and_leaves_nothing() -> None:
    """A program that is interrupted during its start must end at once."""

    async def scenario(world: World) -> None:
        world.scheduler.deaf = True
        joining = asyncio.ensure_future(world.member.connect(30))
        await world.scheduler.until(lambda: world.scheduler.hellos)
        await world.member.close()
        with pytest.raises(ClusterConnectionError, match="closed while"):
            await joining
        opening = world.make(Owner(), name="w2")
        joining = asyncio.ensure_future(opening.connect(30))
        await asyncio.sleep(0)  # the thread that opens its link has begun
        await opening.close()
        with pytest.raises(ClusterConnectionError, match="closed while"):
            await joining
        cancelled = world.make(Owner(), name="w3")
        joining = asyncio.ensure_future(cancelled.connect(30))
        await asyncio.sleep(0)
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)

    in_a_world(scenario)


# -- staying -------------------------------------------------------------------------------------------------------


def test_a_cut_is_told_and_healed() -> None:
    """The session goes on where it stood; what is sent meanwhile is kept."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.member.send(GaveBack("a", 1))
        await world.scheduler.got(1)
        world.cut()
        await world.owner.until(lambda: world.owner.losses)
        assert not world.member.connected
        world.member.send(GaveBack("b", 1))
        assert await world.scheduler.got(2) == [GaveBack("a", 1), GaveBack("b", 1)]
        assert [fresh for _, fresh in world.owner.welcomes] == [True, False]
        assert world.scheduler.hellos[0].inbox != world.scheduler.hellos[1].inbox

    in_a_world(scenario)


def test_reconnecting_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that restarts must not be stormed by everybody, and one attempt after another fail unseen."""
    pauses: list[float] = []
    attempts = 0

    async def refuse(*_: Any, **__: Any) -> Any:
        nonlocal attempts
        attempts += 1
        raise ClusterConnectionError("not yet") if attempts % 2 else ZeroDivisionError("a bug")

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        real = asyncio.sleep

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 12:
                monkeypatch.undo()
            await real(0)

        monkeypatch.setattr(rules, "open_in_thread", refuse)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        world.cut()
        await world.owner.until(lambda: len(world.owner.welcomes) == 2)

    in_a_world(scenario)
    for number, pause in enumerate(pauses[:11]):
        most = min(0.005 * 2**number, rules.RECONNECT_MAX)
        assert most / 2 <= pause <= most


def test_a_cut_while_it_greets_is_healed_too() -> None:
    """The second cut comes before the welcome of the first reconnection."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.scheduler.deaf = True
        world.cut()
        await world.scheduler.until(lambda: len(world.scheduler.hellos) > 1)
        world.cut()
        world.scheduler.deaf = False
        await world.owner.until(lambda: len(world.owner.welcomes) == 2)
        world.member.send(GaveBack("a", 1))
        await world.scheduler.got(1)

    in_a_world(scenario)


def test_a_cut_in_the_moment_of_the_welcome_is_healed() -> None:
    """Between the welcome and its reader's turn the link is nobody's concern, unless somebody looks."""

    async def scenario(world: World) -> None:
        world.owner.on_welcome = lambda: world.cut() if len(world.owner.welcomes) < 3 else None
        await world.member.connect(5)
        await world.owner.until(lambda: len(world.owner.welcomes) == 3)
        world.member.send(GaveBack("a", 1))
        await world.scheduler.got(1)

    in_a_world(scenario)


def test_a_refusal_after_a_cut_ends_it() -> None:
    """The scheduler was replaced by one that doesn't fit."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.scheduler.refusal = "other"
        world.cut()
        await world.owner.until(lambda: world.owner.refusals)
        assert world.owner.refusals == ["other"]
        assert not world.member.connected

    in_a_world(scenario)


def test_heartbeats_tell_where_to_answer_and_measure_the_way() -> None:
    """A scheduler that doesn't know us can ask for our hello."""

    async def scenario(world: World) -> None:
        world.member.heartbeat("running", {})  # not connected: nothing
        await world.member.connect(5)
        world.member.heartbeat("paused", {"cpu": 1})
        await world.owner.until(lambda: world.owner.trips)
        beat = world.scheduler.met[-1][1]
        assert (beat.status, beat.metrics, beat.inbox) == ("paused", {"cpu": 1}, world.scheduler.hellos[0].inbox)
        assert 0 < world.owner.trips[0] < 5

    in_a_world(scenario)


# -- other schedulers ----------------------------------------------------------------------------------------------


async def another_scheduler(world: World) -> None:
    """The scheduler is killed, its broker stays, and another one begins."""
    world.scheduler.end()
    world.scheduler = Scheduler(world.broker, incarnation="2")


def test_a_scheduler_that_is_gone_is_noticed_by_its_queue_and_its_successor_is_joined() -> None:
    """Our own link lives, so nothing else would tell: work would be sent into the void for ever."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.member.send(GaveBack("old", 1))
        world.member.heartbeat("running", {})
        await world.scheduler.until(lambda: world.scheduler.delivered and len(world.scheduler.met) == 2)
        await another_scheduler(world)
        await world.owner.until(lambda: len(world.owner.welcomes) == 2)
        assert [fresh for _, fresh in world.owner.welcomes] == [True, True]
        assert world.owner.losses == []
        world.member.send(GaveBack("new", 1))
        assert await world.scheduler.got(1) == [GaveBack("new", 1)]
        first, second = world.scheduler.hellos[0], world.scheduler.hellos[-1]
        assert (first.epoch, second.epoch, second.received) == (1, 0, 0)
        assert world.scheduler.strangers == []

    in_a_world(scenario)


def test_a_scheduler_that_answers_no_heartbeats_gets_another_hello() -> None:
    """The last resort, when neither broker nor scheduler can tell; what the session holds stays."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.scheduler.deaf = True
        for _ in range(rules.BEATS_UNANSWERED):
            world.member.heartbeat("running", {})
        assert world.member.connected
        world.member.heartbeat("running", {})
        await world.scheduler.until(lambda: len(world.scheduler.hellos) == 2)
        world.scheduler.deaf = False
        await world.owner.until(lambda: len(world.owner.welcomes) == 2)
        assert [fresh for _, fresh in world.owner.welcomes] == [True, False]

    in_a_world(scenario)


def test_a_scheduler_that_forgot_us_gets_us_as_another() -> None:
    """It believed us lost and gave our work to others; what we did since counts for nothing."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.member.send(Finished("a", 1, 1, 1))
        await world.scheduler.got(1)
        before = world.scheduler.endpoint.peer("w1")
        assert before is not None
        world.scheduler.endpoint.forget("w1")
        world.member.send(Finished("b", 1, 1, 1))
        await world.scheduler.until(lambda: world.scheduler.strangers)
        inbox = world.scheduler.hellos[0].inbox
        world.scheduler.endpoint.send_meeting(before, inbox, MeetAgain("of another", forgotten=True))
        for _ in range(2):  # the second means an incarnation that is gone by then
            world.scheduler.endpoint.send_meeting(before, inbox, MeetAgain(before.incarnation, forgotten=True))
        await world.owner.until(lambda: len(world.owner.welcomes) == 2)
        after = world.scheduler.endpoint.peer("w1")
        assert after is not None
        assert after.incarnation != before.incarnation
        assert [fresh for _, fresh in world.owner.welcomes] == [True, True]
        world.member.send(Finished("c", 1, 1, 1))
        await world.scheduler.until(lambda: len(world.scheduler.delivered) > 1)
        assert [message.key for message in world.scheduler.delivered] == ["a", "c"]

    in_a_world(scenario)


def test_a_link_that_goes_while_it_is_to_say_hello_again_is_replaced() -> None:
    """A broker that shuts down first tells that the scheduler's queue has ended, and closes the connection next."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.member.returned(world.member._queue)
        world.cut()
        await world.owner.until(lambda: len(world.owner.welcomes) == 2)
        assert world.member.connected
        assert len(world.owner.losses) == 1

    in_a_world(scenario)


def test_asked_to_meet_again_it_goes_on_with_the_session() -> None:
    """A scheduler whose own link broke keeps our session, but can't know where it stands."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        peer = world.scheduler.endpoint.peer("w1")
        assert peer is not None
        world.scheduler.endpoint.send_meeting(peer, world.scheduler.hellos[0].inbox, MeetAgain(peer.incarnation))
        await world.owner.until(lambda: len(world.owner.welcomes) == 2)
        assert world.scheduler.endpoint.peer("w1") == peer
        assert [fresh for _, fresh in world.owner.welcomes] == [True, False]

    in_a_world(scenario)


# -- leaving -------------------------------------------------------------------------------------------------------


def test_leaving_sends_what_waits_and_then_goodbye() -> None:
    """The last result of a worker that is told to stop counts."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.member.send(GaveBack("last", 1))
        await world.member.close("enough")
        await world.member.close("again")
        await world.scheduler.until(lambda: world.scheduler.met[-1][1] == Goodbye("enough"))
        assert world.scheduler.delivered == [GaveBack("last", 1)]
        assert world.owner.losses == []

    in_a_world(scenario)


def test_leaving_while_it_reconnects_ends_that() -> None:
    """Otherwise it would come back after it was closed."""

    async def scenario(world: World) -> None:
        await world.member.connect(5)
        world.scheduler.deaf = True
        world.cut()
        await world.scheduler.until(lambda: len(world.scheduler.hellos) > 1)
        await world.member.close()
        assert not world.member.connected

    in_a_world(scenario)


# -- leaving -------------------------------------------------------------------------------------------------------


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
