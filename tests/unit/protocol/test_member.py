"""A member joins, says why it can't, stays through cuts and other schedulers, and leaves nothing when it goes."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

from futurebroker import __version__
from futurebroker.exceptions import ClusterConnectionError, NoSchedulerError, RefusedError
from futurebroker.protocol import member as rules
from futurebroker.protocol.messages import (
    PROTOCOL,
    Drop,
    Finished,
    GaveBack,
    Goodbye,
    MeetAgain,
)
from tests.unit.protocol.member_world import Owner, Scheduler, World, in_a_world


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
