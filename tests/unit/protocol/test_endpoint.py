"""An endpoint: few envelopes for many messages, all of them once and in order, and nothing that isn't ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from futurebroker.exceptions import ProtocolError
from futurebroker.protocol import conversation
from futurebroker.protocol import endpoint as rules
from futurebroker.protocol.messages import Drop, Finished, Free, GaveBack, Heard, Heartbeat, encode
from futurebroker.protocol.pieces import MARK, PIECE_BYTES, Joiner, cut
from futurebroker.protocol.wire import BATCH_BYTES, MAX_ENVELOPE, Header, Keyring, Kind
from futurebroker.types import Peer, Role
from tests.unit.protocol.parties import KEYRING, Pair, envelope


def on_a_pair(scenario: Callable[[Pair], Awaitable[None]]) -> None:
    """Run a scenario on a fresh pair of endpoints."""

    async def run() -> None:
        async with Pair() as pair:
            await scenario(pair)

    asyncio.run(run())


def reports(count: int, size: int = 0) -> list[Any]:
    """Messages of a worker, each different."""
    return [Finished(f"k{number}", number, size, 1, bytes(size)) for number in range(count)]


# -- batches -------------------------------------------------------------------------------------------------------


def test_a_burst_is_one_envelope_each_way() -> None:
    """What is said while the loop is busy leaves together: signing and sending cost per envelope."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.on_deliver = lambda message: pair.scheduler.endpoint.send("w1", Drop(message.key, 1))
        for message in reports(300):
            pair.worker.endpoint.send("scheduler", message)
        assert await pair.scheduler.got(300) == reports(300)
        await pair.worker.got(300)
        assert (pair.scheduler.bursts, pair.worker.bursts) == ([300], [300])
        assert (len(pair.worker.link.sent), len(pair.scheduler.link.sent)) == (1, 1)

    on_a_pair(scenario)


def test_large_batches_are_split_and_keep_their_order() -> None:
    """An envelope stays small enough that nothing urgent waits behind it for long."""

    async def scenario(pair: Pair) -> None:
        sent = [*reports(40, 30_000), *reports(2000), *reports(3, 200_000)]
        for message in sent:
            pair.worker.endpoint.send("scheduler", message)
        assert await pair.scheduler.got(len(sent)) == sent
        assert max(len(body) for _, body in pair.worker.link.sent) < 2 * BATCH_BYTES + 1000
        assert len(pair.worker.link.sent) < 60

    on_a_pair(scenario)


def test_a_message_larger_than_an_envelope_arrives_in_pieces() -> None:
    """A task with thousands of small inputs makes one; dropped, it would block all that is numbered after it."""

    async def scenario(pair: Pair) -> None:
        sent = [*reports(1), *reports(1, 2 * MAX_ENVELOPE), *reports(3)]
        for message in sent:
            pair.worker.endpoint.send("scheduler", message)
        assert await pair.scheduler.got(5) == sent
        assert max(len(body) for _, body in pair.worker.link.sent) < PIECE_BYTES + 1000

    on_a_pair(scenario)


def test_a_message_too_large_for_anything_does_not_block_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted and gone; had it a number, the other side would wait for it for ever."""
    monkeypatch.setattr("futurebroker.protocol.pieces.WHOLE_BYTES", 3 * PIECE_BYTES)

    async def scenario(pair: Pair) -> None:
        for message in [*reports(1, 4 * PIECE_BYTES), *reports(2)]:
            pair.worker.endpoint.send("scheduler", message)
        assert await pair.scheduler.got(2) == reports(2)
        assert pair.worker.endpoint.rejected == {"oversize": 1}

    on_a_pair(scenario)


def test_pieces_are_joined_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never ends a body must not fill our memory."""
    body = bytes(range(256)) * 20_000
    joiner = Joiner()
    joined = [joiner.add(piece) for piece in cut(body)]
    assert joined[:-1] == [None] * (len(joined) - 1)
    assert joined[-1] == body
    assert len(list(cut(bytes(2 * PIECE_BYTES)))) == 2
    monkeypatch.setattr("futurebroker.protocol.pieces.WHOLE_BYTES", 1000)
    assert joiner.add(bytes((MARK, 1)) + bytes(1000)) is None
    with pytest.raises(ProtocolError, match="1,000 bytes"):
        joiner.add(bytes((MARK, 1)) + bytes(PIECE_BYTES))
    assert joiner.add(bytes((MARK, 0)) + b"x") == b"x"


def test_what_is_not_urgent_goes_with_the_next_or_alone_after_a_moment() -> None:
    """Frees need no envelope of their own, and must not wait for ever either."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.endpoint.send_lazily("w1", Free(["a"]))
        pair.scheduler.endpoint.send("w1", Drop("b", 1))
        assert await pair.worker.got(2) == [Free(["a"]), Drop("b", 1)]
        assert pair.worker.bursts == [2]
        began = asyncio.get_running_loop().time()
        pair.scheduler.endpoint.send_lazily("w1", Free(["c"]))
        await pair.worker.got(3)
        assert asyncio.get_running_loop().time() - began >= conversation.LAZY * 0.9
        assert len(pair.scheduler.link.sent) == 2

    on_a_pair(scenario)


def test_many_envelopes_are_acknowledged_without_waiting_and_once() -> None:
    """What isn't acknowledged fills the sender's memory; what is needn't be said twice."""

    async def scenario(pair: Pair) -> None:
        for number, message in enumerate(reports(64), 1):
            pair.worker.endpoint.send("scheduler", message)
            pair.worker.endpoint.flush()
            await pair.scheduler.got(number)
        assert len(pair.scheduler.link.sent) == 4
        pair.scheduler.endpoint.send("w1", Drop("after the acknowledgements", 1))
        await pair.worker.got(1)
        assert pair.worker.endpoint.unacked_bytes("scheduler") == 0

    on_a_pair(scenario)


# -- cuts ----------------------------------------------------------------------------------------------------------


def test_a_cut_loses_and_doubles_nothing() -> None:
    """What was on its way, and what was said meanwhile, arrives when both have met again."""

    async def scenario(pair: Pair) -> None:
        sent = reports(30)
        for message in sent[:10]:
            pair.worker.endpoint.send("scheduler", message)
        await pair.scheduler.got(10)
        for message in sent[10:20]:
            pair.worker.endpoint.send("scheduler", message)
        pair.worker.endpoint.flush()
        pair.scheduler.link.close()  # with ten under way
        await pair.scheduler.until(lambda: pair.scheduler.ends)
        assert not pair.scheduler.endpoint.is_open("w1")
        pair.scheduler.endpoint.send("w1", Drop("while away", 1))
        for message in sent[20:]:
            pair.worker.endpoint.send("scheduler", message)
        pair.scheduler.attach()
        pair.scheduler.open(pair.worker)
        pair.worker.open(pair.scheduler)
        assert await pair.scheduler.got(30) == sent
        assert await pair.worker.got(1) == [Drop("while away", 1)]
        assert pair.worker.returns == ["in.scheduler.1"]

    on_a_pair(scenario)


def test_a_peer_that_claims_what_was_never_sent_changes_nothing() -> None:
    """It means another session; to believe it would drop messages that it doesn't have."""

    async def scenario(pair: Pair) -> None:
        with pytest.raises(ProtocolError):
            pair.scheduler.endpoint.open(pair.worker.me, "elsewhere", 1)
        with pytest.raises(ProtocolError):
            pair.scheduler.endpoint.open(Peer(Role.WORKER, "w2", "1"), "elsewhere", 1)
        assert pair.scheduler.endpoint.peer("w2") is None
        pair.scheduler.endpoint.send("w1", Drop("a", 1))
        assert await pair.worker.got(1) == [Drop("a", 1)]

    on_a_pair(scenario)


def test_a_new_incarnation_begins_at_one() -> None:
    """What the old one had not acknowledged isn't the new one's."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.endpoint.send("w1", Drop("old", 1))
        again = Peer(Role.WORKER, "w1", "2")
        pair.scheduler.endpoint.open(again, pair.worker.queue, 0)
        assert pair.scheduler.endpoint.peer("w1") == again
        assert pair.scheduler.endpoint.unacked_bytes("w1") == 0
        assert pair.scheduler.endpoint.sent_up_to("w1") == 0
        pair.scheduler.endpoint.flush()
        assert pair.scheduler.data_envelopes() == 0
        pair.scheduler.inject(envelope(encode([GaveBack("k", 1)]), incarnation="1"))
        pair.scheduler.inject(envelope(encode([GaveBack("k", 2)]), incarnation="2"))
        assert pair.scheduler.delivered == [GaveBack("k", 2)]

    on_a_pair(scenario)


def test_who_renews_itself_has_no_sessions_and_drops_what_they_held() -> None:
    """A member whose session the scheduler forgot comes as another."""

    async def scenario(pair: Pair) -> None:
        pair.worker.endpoint.epoch = 4
        pair.worker.endpoint.send("scheduler", GaveBack("k", 1))
        pair.worker.endpoint.send_lazily("scheduler", GaveBack("k", 2))
        pair.worker.endpoint.renew("2")
        assert pair.worker.endpoint.me == Peer(Role.WORKER, "w1", "2")
        assert (pair.worker.endpoint.peer("scheduler"), pair.worker.endpoint.epoch) == (None, 0)
        pair.worker.endpoint.flush()
        assert pair.worker.link.sent == []

    on_a_pair(scenario)


# -- what isn't ours -----------------------------------------------------------------------------------------------


def test_strangers_are_told_of_and_not_heard() -> None:
    """Their messages need a session to be in order; they have to say hello."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.inject(envelope(encode([GaveBack("k", 1)]), sender="w9"))
        pair.scheduler.inject(envelope(encode([GaveBack("k", 1)]), incarnation="9"))
        assert pair.scheduler.strangers == [Peer(Role.WORKER, "w9", "1"), Peer(Role.WORKER, "w1", "9")]
        assert pair.scheduler.delivered == []

    on_a_pair(scenario)


def test_what_is_not_ours_is_counted_logged_once_a_kind_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A stranger on the broker must neither get through nor fill the log."""

    async def scenario(pair: Pair) -> None:
        body = encode([GaveBack("k", 1)])
        foreign = Keyring(b"another secret").seal(
            Role.WORKER, Role.SCHEDULER, Header(Kind.DATA, "c", "w1", "1", "scheduler", 0, 1), body
        )
        elsewhere = KEYRING.seal(
            Role.WORKER, Role.SCHEDULER, Header(Kind.DATA, "c", "w1", "1", "another scheduler", 0, 1), body
        )
        for _ in range(3):
            pair.scheduler.inject(b"GET / HTTP/1.1")
            pair.scheduler.inject(foreign)
            pair.scheduler.inject(envelope(body, cluster="other"))
            pair.scheduler.inject(elsewhere)
        assert pair.scheduler.endpoint.rejected == {"garbage": 3, "signature": 3, "address": 6}
        assert (pair.scheduler.delivered, pair.scheduler.strangers) == ([], [])

    with caplog.at_level(logging.WARNING, "futurebroker.endpoint"):
        on_a_pair(scenario)
    assert len(caplog.messages) == 3


def test_a_body_that_cannot_be_read_takes_no_other_with_it() -> None:
    """It may stand between two that wait for each other's place."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.inject(envelope(encode([GaveBack("k", 3)]), sequence=3))
        pair.scheduler.inject(envelope(b"\xa3no!", sequence=2))
        pair.scheduler.inject(envelope(encode([GaveBack("k", 1)]), sequence=1))
        assert pair.scheduler.delivered == [GaveBack("k", 1), GaveBack("k", 3)]
        assert pair.scheduler.endpoint.rejected == {"garbage": 1}
        pair.scheduler.inject(envelope(b"", sequence=4))
        pair.scheduler.inject(envelope(b"", sequence=5, ack=99))
        assert pair.scheduler.endpoint.received_up_to("w1") == 4
        assert pair.scheduler.endpoint.rejected == {"garbage": 3}

    on_a_pair(scenario)


def test_meetings_are_bounded() -> None:
    """What is outside of a session is kept by nobody, and has no reason to be large."""

    async def scenario(pair: Pair) -> None:
        header = Header(Kind.MEETING, "c", "w1", "1", "scheduler")
        for size in (10, rules.MEETING_BYTES + 1):
            body = encode([Heartbeat("running", {"x": bytes(size)})])
            pair.scheduler.inject(KEYRING.seal(Role.WORKER, Role.SCHEDULER, header, body))
        pair.scheduler.inject(KEYRING.seal(Role.WORKER, Role.SCHEDULER, header, b"\xc1"))
        assert len(pair.scheduler.met) == 1
        assert pair.scheduler.endpoint.rejected == {"oversize": 1, "garbage": 1}

    on_a_pair(scenario)


def test_an_owners_mistake_is_reported_and_the_rest_goes_on() -> None:
    """A bug in one place must not stop the reading of the link, or what came with it is lost."""

    async def scenario(pair: Pair) -> None:
        mistakes: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: mistakes.append(about))
        pair.scheduler.on_deliver = lambda message: 1 // (message.attempt - 1)
        for sequence in (2, 1, 3):
            pair.scheduler.inject(envelope(encode([GaveBack("k", sequence)]), sequence=sequence))
        assert [message.attempt for message in pair.scheduler.delivered] == [1, 2, 3]
        assert [type(about["exception"]) for about in mistakes] == [ZeroDivisionError]
        assert mistakes[0]["message"] == "deliver of Party raised"

    on_a_pair(scenario)


def test_who_is_forgotten_while_it_speaks_is_not_heard_further() -> None:
    """Its owner has given up what it had; the rest of the burst means nothing any more."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.on_deliver = lambda message: pair.scheduler.endpoint.forget("w1")
        pair.scheduler.inject(envelope(encode([GaveBack("k", 2)]), sequence=2))
        pair.scheduler.inject(envelope(encode([GaveBack("k", 1)]), sequence=1))
        assert pair.scheduler.delivered == [GaveBack("k", 1)]
        pair.scheduler.endpoint.send("w1", Drop("k", 1))
        pair.scheduler.endpoint.flush()
        assert pair.scheduler.link.sent == []

    on_a_pair(scenario)


# -- a broker that asks for silence --------------------------------------------------------------------------------


def test_a_blocked_broker_gets_nothing_and_then_everything_once() -> None:
    """What is sent while it has an alarm would fill the buffers of both sides."""

    async def scenario(pair: Pair) -> None:
        pair.worker.endpoint.blocked(True)
        assert not pair.worker.endpoint.hears
        for message in reports(5):
            pair.worker.endpoint.send("scheduler", message)
            pair.worker.endpoint.flush()
        pair.worker.endpoint.send_meeting(pair.scheduler.me, pair.scheduler.queue, Heartbeat())
        for number in range(1, 40):
            pair.scheduler.endpoint.send("w1", Drop("k", number))
            pair.scheduler.endpoint.flush()
        await pair.worker.got(39)
        assert pair.worker.link.sent == []
        pair.worker.endpoint.blocked(False)
        assert await pair.scheduler.got(5) == reports(5)
        assert pair.worker.data_envelopes() == 5
        assert pair.worker.blocks == [True, False]
        pair.worker.endpoint.send("scheduler", GaveBack("k", 1))
        await pair.scheduler.got(6)
        assert pair.scheduler.endpoint.unacked_bytes("w1") == 0  # what arrived meanwhile is acknowledged
        assert pair.scheduler.met == []

    on_a_pair(scenario)


def test_an_unsendable_meeting_comes_back() -> None:
    """A heartbeat to a scheduler that is gone is how a worker learns of it."""

    async def scenario(pair: Pair) -> None:
        pair.scheduler.endpoint.send_meeting(pair.worker.me, "nowhere", Heard())
        pair.scheduler.endpoint.send_meeting(pair.worker.me, "nowhere", Heard(), mandatory=True)
        await pair.scheduler.until(lambda: pair.scheduler.returns)
        assert pair.scheduler.returns == ["nowhere"]

    on_a_pair(scenario)
