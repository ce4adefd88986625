"""Two members in one process: the same messages in the same order as by envelopes, without any."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from futurebroker.protocol.messages import Finished, Free, GaveBack, Goodbye, Heartbeat, Run, Said
from futurebroker.protocol.near import NearEndpoint
from futurebroker.types import Peer, Role
from tests.unit.protocol.parties import Pair


def on_a_near_pair(scenario: Callable[[Pair], Awaitable[None]]) -> None:
    """Run a scenario on a scheduler and a worker that are near to each other."""

    async def run() -> None:
        async with Pair(kind=NearEndpoint) as pair:
            one, other = pair.scheduler.endpoint, pair.worker.endpoint
            assert isinstance(one, NearEndpoint)
            assert isinstance(other, NearEndpoint)
            one.near["w1"], other.near["scheduler"] = other, one
            await scenario(pair)

    asyncio.run(run())


def reports(count: int) -> list[Any]:
    return [Finished(f"k{number}", number, 0, 1, b"") for number in range(count)]


def test_what_one_says_the_other_hears_once_in_order_and_without_an_envelope() -> None:
    """Also an answer that is given at once, and what follows from it."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.on_deliver = lambda message: pair.scheduler.endpoint.send("w1", Free([message.key]))
        for message in reports(300):
            pair.worker.endpoint.send("scheduler", message)
        pair.worker.endpoint.send("scheduler", GaveBack("last", 1))
        assert await pair.scheduler.got(301) == [*reports(300), GaveBack("last", 1)]
        frees = [Free([f"k{number}"]) for number in range(300)]
        assert await pair.worker.got(301) == [*frees, Free(["last"])]
        assert (pair.worker.link.sent, pair.scheduler.link.sent) == ([], [])

    on_a_near_pair(scenario)


def test_what_is_free_in_form_arrives_as_it_would_by_an_envelope() -> None:
    """With lists for tuples, and as a copy: who sent it may go on to change it."""

    async def scenario(pair: Pair) -> None:
        about = {"pair": (1, 2)}
        pair.worker.endpoint.send("scheduler", Said("t", "", about))
        (said,) = await pair.scheduler.got(1)
        assert said.about == {"pair": [1, 2]}
        assert said.about is not about

    on_a_near_pair(scenario)


def test_the_usual_messages_are_handed_over_as_they_are() -> None:
    """That is what makes it quick."""

    async def scenario(pair: Pair) -> None:
        run, done = Run("k", 1, b"f", b"a"), reports(1)[0]
        pair.scheduler.endpoint.send("w1", run)
        pair.worker.endpoint.send("scheduler", done)
        assert (await pair.worker.got(1))[0] is run
        assert (await pair.scheduler.got(1))[0] is done

    on_a_near_pair(scenario)


def test_without_a_session_what_is_said_is_dropped() -> None:
    """As an envelope is; the other is told to say hello."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.endpoint.forget("w1")
        pair.worker.endpoint.send("scheduler", reports(1)[0])
        await pair.scheduler.until(lambda: pair.scheduler.strangers)
        assert pair.scheduler.delivered == []
        other = Peer(Role.WORKER, "w1", "another")
        pair.scheduler.endpoint.open(other, "inbox", 0)
        pair.worker.endpoint.send("scheduler", reports(1)[0])
        await pair.scheduler.until(lambda: len(pair.scheduler.strangers) == 2)
        assert pair.scheduler.delivered == []

    on_a_near_pair(scenario)


def test_who_parts_is_heard_after_all_that_it_said() -> None:
    """A goodbye takes the way of envelopes."""

    async def scenario(pair: Pair) -> None:
        pair.worker.endpoint.send("scheduler", reports(1)[0])
        pair.worker.endpoint.flush()
        pair.worker.endpoint.send_meeting(pair.scheduler.me, pair.scheduler.queue, Goodbye())
        assert pair.scheduler.met == []
        assert pair.scheduler.delivered == reports(1)
        await pair.scheduler.until(lambda: pair.scheduler.met)
        assert pair.scheduler.met == [(pair.worker.me, Goodbye())]

    on_a_near_pair(scenario)


def test_what_is_said_behind_a_meeting_is_heard_behind_it() -> None:
    """A worker that is to end says so first, or what it hands back is sent to it again."""

    async def scenario(pair: Pair) -> None:
        heard: list[Any] = []
        pair.scheduler.on_deliver = lambda message: heard.append((message, len(pair.scheduler.met)))
        pair.worker.endpoint.send_meeting(pair.scheduler.me, pair.scheduler.queue, Heartbeat("closing"))
        pair.worker.endpoint.send_now("scheduler", [GaveBack("k", 1)])
        await pair.scheduler.got(1)
        assert heard == [(GaveBack("k", 1), 1)]

    on_a_near_pair(scenario)


def test_answers_to_answers_leave_the_loop_its_turns() -> None:
    """They would end in a RecursionError, in the middle of whatever gave the last one."""

    async def scenario(pair: Pair) -> None:
        rounds = 3000
        turns: list[int] = []

        def answer(message: GaveBack) -> None:
            if message.attempt < rounds:
                pair.scheduler.endpoint.send("w1", Run(message.key, message.attempt + 1, b"f", b""))

        def count() -> None:
            turns.append(len(pair.scheduler.delivered))
            if len(pair.scheduler.delivered) < rounds:
                asyncio.get_running_loop().call_soon(count)

        pair.scheduler.on_deliver = answer
        pair.worker.on_deliver = lambda run: pair.worker.endpoint.send("scheduler", GaveBack(run.key, run.attempt))
        pair.worker.endpoint.send("scheduler", GaveBack("k", 1))
        count()
        assert [message.attempt for message in await pair.scheduler.got(rounds)] == list(range(1, rounds + 1))
        assert len(turns) > rounds / 20

    on_a_near_pair(scenario)
