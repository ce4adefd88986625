"""The scheduler's process: who may join, who is there, and what happens when it is cut off or replaced."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

from futurebroker.exceptions import RefusedError
from futurebroker.protocol import member as joining
from futurebroker.protocol import messages as m
from futurebroker.scheduler import admission, presence
from futurebroker.scheduler import service as rules
from futurebroker.scheduler.service import SchedulerService
from futurebroker.states import WorkerStatus
from futurebroker.types import Role
from tests.unit.scheduler.served import SECRET, World, in_a_world


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of seconds are what a network needs, not a test."""
    monkeypatch.setattr(rules, "SWEEP_EVERY", 0.01)
    monkeypatch.setattr(joining, "HELLO_EVERY", 0.05)
    monkeypatch.setattr(joining, "RECONNECT_FIRST", 0.005)


# -- joining -------------------------------------------------------------------------------------------------------


def test_a_client_and_a_worker_meet_in_it() -> None:
    """The whole path of a call, with the machine's laws checked after each step."""

    async def scenario(world: World) -> None:
        client, worker = await world.client(), await world.worker(slots=3)
        client.submit("a", "b")
        assert await client.told(m.KeyFinished, 2)
        assert worker.welcomes == client.welcomes == [True]
        assert world.service.machine.state.workers["w1"].slots == 3
        assert world.mistakes == []

    in_a_world(scenario)


@pytest.mark.parametrize(
    ("protocol", "python", "reason"),
    [
        (m.PROTOCOL + 1, "", f"protocol {m.PROTOCOL + 1} and the scheduler {m.PROTOCOL}"),
        (m.PROTOCOL, "3.9", r"Python 3\.9 and the scheduler Python 3\.\d+"),
    ],
)
def test_who_does_not_fit_is_told_both_sides(
    protocol: int, python: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickled code of another Python fails in ways that nobody understands."""

    class OtherHello(m.Hello, tag=1):
        """What an installation of another version would say."""

        def __post_init__(self) -> None:
            self.protocol, self.python = protocol, python or self.python

    monkeypatch.setattr(joining, "Hello", OtherHello)

    async def scenario(world: World) -> None:
        with pytest.raises(RefusedError, match=reason):
            await world.worker()
        assert world.service.machine.state.workers == {}

    in_a_world(scenario)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"slots": "many"}, r"Expected `int \| null`, got `str` - at `\$.slots`"),
        ({"slots": 10**9}, "slots"),
        ({"slots": -1}, "slots"),
        ({"name": 5}, "name"),
        ({"name": "n" * 300}, "name"),
        ({"host": b"h"}, "host"),
        ({"resources": [1]}, "resources"),
        ({"resources": {"gpu": "two"}}, "resources"),
        ({"resources": {"gpu": -1}}, "resources"),
        ({"resources": {"gpu": float("nan")}}, "resources"),
        ({"resources": {"gpu": float("inf")}}, "resources"),
        ({"extra": "x" * 100_000}, "100,0.. bytes"),
    ],
)
def test_a_worker_that_tells_odd_things_of_itself_is_refused_with_the_reason(info: dict[str, Any], reason: str) -> None:
    """Taken as they are, they would break the scheduler when it places the next task."""

    async def scenario(world: World) -> None:
        with pytest.raises(RefusedError, match=reason):
            await world.worker(**info)
        assert world.service.machine.state.workers == {}
        await world.worker("w2", slots=None, resources={"gpu": 2}, extra=[{"any": b"thing"}])
        assert world.mistakes == []

    in_a_world(scenario)


def test_a_client_that_tells_too_much_of_itself_is_refused() -> None:
    """All of it is kept for the dashboard."""

    async def scenario(world: World) -> None:
        with pytest.raises(RefusedError, match="64|65,536"):
            await world.client(program="x" * 100_000)
        await world.client("c2", program=["odd", 1])

    in_a_world(scenario)


def test_a_name_too_long_for_a_queue_is_refused() -> None:
    """AMQP gives a queue's name 255 bytes; a longer one would break the scheduler's own link."""
    hello = m.Hello("q" * 256, m.PROTOCOL, f"{sys.version_info.major}.{sys.version_info.minor}", 0)
    assert "255" in admission.misfit(Role.CLIENT, hello)


# -- who is there --------------------------------------------------------------------------------------------------


def test_a_worker_whose_inbox_ends_is_suspected_at_once_and_soon_lost() -> None:
    """The broker says that its connection is gone: no silence has to be waited for, and its work goes to another."""

    async def scenario(world: World) -> None:
        client, worker = await world.client(), await world.worker()
        worker.works = False
        client.submit("a")
        await worker.told(m.Run)
        worker.cut(for_good=True)
        other = await world.worker("w2")
        await client.told(m.KeyFinished)
        assert world.service.suspected == ["w1"]
        assert [run.attempt for run in await other.told(m.Run)] > [1]
        assert list(world.service.machine.state.workers) == ["w2"]

    in_a_world(scenario)


def test_a_suspected_worker_that_comes_back_in_time_keeps_its_work() -> None:
    """A network that hiccups must not cost what is half done."""

    async def scenario(world: World) -> None:
        client, worker = await world.client(), await world.worker()
        worker.works = False
        client.submit("a")
        [run] = await worker.told(m.Run)
        worker.cut()
        await worker.until(lambda: len(worker.welcomes) == 2)
        record = world.service.machine.state.workers["w1"]
        assert worker.welcomes == [True, False]
        assert record.status is WorkerStatus.RUNNING
        worker.member.send(m.Finished("a", run.attempt, 1, 1, b"v"))
        await client.told(m.KeyFinished)

    in_a_world(scenario, suspect_grace=30.0)


def test_a_worker_that_falls_silent_is_lost_and_when_it_wakes_comes_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that slept: its link lives, its work was given away, and it must neither count twice nor hang."""
    monkeypatch.setattr(presence, "SILENCE", 0.05)

    async def scenario(world: World) -> None:
        worker = await world.worker()
        await world.service.notes.until(lambda: world.service.forgotten)
        worker.member.send(m.Finished("a", 1, 1, 1, b"v"))
        monkeypatch.setattr(presence, "SILENCE", 30.0)
        worker.member.heartbeat("running", {})
        await worker.until(lambda: len(worker.welcomes) == 2)
        assert worker.welcomes == [True, True]
        client = await world.client()
        client.submit("b")
        await client.told(m.KeyFinished)
        assert world.mistakes == []

    in_a_world(scenario, heartbeat_interval=0.001)


def test_a_client_that_is_cut_off_keeps_its_futures_for_a_while() -> None:
    """Closing the lid of a laptop isn't giving up an hour's work."""

    async def scenario(world: World) -> None:
        client = await world.client()
        client.submit("a")
        client.cut()
        await client.until(lambda: len(client.welcomes) == 2)
        assert client.welcomes == [True, False]
        await world.worker()
        await client.told(m.KeyFinished)

    in_a_world(scenario, client_grace=30.0)


def test_a_client_that_stays_away_is_forgotten_with_its_futures() -> None:
    """Otherwise the results of every program that crashed would fill the scheduler."""

    async def scenario(world: World) -> None:
        client = await world.client()
        client.submit("a")
        other = await world.client("c2")
        client.cut(for_good=True)
        await world.service.notes.until(lambda: world.service.forgotten)
        state = world.service.machine.state
        assert (list(state.clients), state.tasks, state.functions) == (["c2"], {}, {})
        other.submit("b")
        await world.worker()
        await other.told(m.KeyFinished)

    in_a_world(scenario)


def test_another_incarnation_of_a_client_ends_the_one_before() -> None:
    """A program that was restarted under its name doesn't get what the former one asked for."""

    async def scenario(world: World) -> None:
        first = await world.client()
        first.submit("a")
        second = await world.client()
        assert second.welcomes == [True]
        second.submit("b")
        await world.worker()
        assert [told.key for told in await second.told(m.KeyFinished)] == ["b"]
        assert list(world.service.machine.state.tasks) == ["b"]

    in_a_world(scenario, client_grace=30.0)


def test_goodbye_ends_it_at_once() -> None:
    """Who leaves by itself need not be missed first."""

    async def scenario(world: World) -> None:
        client, worker = await world.client(), await world.worker()
        await worker.member.close()
        await world.service.notes.until(lambda: world.service.forgotten)
        assert world.service.machine.state.workers == {}
        await client.beat()

    in_a_world(scenario, suspect_grace=30.0)


def test_heartbeats_are_answered_and_odd_ones_do_no_harm() -> None:
    """The figures go to the dashboard; only the round trip is reckoned with, and that must be a number."""

    async def scenario(world: World) -> None:
        worker = await world.worker()
        record = world.service.machine.state.workers["w1"]
        odd: list[Any] = ["soon", -1, float("nan"), float("inf"), None, [], True, 1 << 63]
        for trip in odd:
            await worker.beat(round_trip=trip)
            assert 0 <= record.latency <= 1
        await worker.beat(cpu={"odd": b"\xff"}, executors=5)
        assert record.metrics == {"cpu": {"odd": b"\xff"}, "executors": 5}
        assert world.mistakes == []

    in_a_world(scenario)


# -- its own links -------------------------------------------------------------------------------------------------


def test_a_scheduler_that_lost_its_link_meets_everybody_again() -> None:
    """Their links live on, so they can't know; it must not wait for them, nor they for it."""

    async def scenario(world: World) -> None:
        client, worker = await world.client(), await world.worker()
        client.submit("a")
        await client.told(m.KeyFinished)
        link = world.service._endpoint._link
        assert link is not None
        link.close()
        client.submit("b")
        await client.told(m.KeyFinished, 2)
        await worker.until(lambda: len(worker.welcomes) == 2)
        assert (client.welcomes, worker.welcomes) == ([True, False], [True, False])

    in_a_world(scenario, suspect_grace=30.0, client_grace=30.0)


def test_a_restarted_scheduler_is_joined_by_all_who_are_still_there() -> None:
    """Behind an external broker their links live on; nobody may wait for ever for the one that is gone."""

    async def scenario(world: World) -> None:
        client, worker = await world.client(), await world.worker()
        client.submit("a")
        await client.told(m.KeyFinished)
        await world.service.close()
        client.member.send(m.Release(["a"]))
        worker.member.send(m.Finished("late", 1, 1, 1, b"v"))
        await world.start()
        worker.member.heartbeat("running", {})
        client.member.heartbeat("running", {})
        await worker.until(lambda: len(worker.welcomes) == 2)
        await client.until(lambda: len(client.welcomes) == 2)
        assert (client.welcomes, worker.welcomes) == ([True, True], [True, True])
        client.submit("b")
        await client.told(m.KeyFinished, 2)
        assert world.mistakes == []

    in_a_world(scenario)


def test_a_taken_port_is_an_error_that_leaves_nothing() -> None:
    """The usual reason that a second scheduler doesn't start."""

    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            service = SchedulerService(cluster="c", secret=SECRET, port=taken.getsockname()[1])
            with pytest.raises(OSError, match="in use"):
                await service.start()
            await service.close()

    asyncio.run(scenario())
