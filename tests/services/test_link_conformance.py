"""What every link has to do, run at all of them; docs/links.md shows which test runs where.

Links may lose, but not mix up; sessions make whole what was lost. The first sentence of each docstring is its row.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from pathlib import Path

import pytest
import redis

from futurebroker.exceptions import MessageTooLargeError
from futurebroker.protocol.messages import KeyLost, Release, encode
from futurebroker.protocol.queues import command_queue
from futurebroker.protocol.wire import Header, Keyring, Kind
from futurebroker.transport.base import Queue, QueueKind
from futurebroker.types import Role
from tests.integration.brokers import SECRET, Owner, broker_here, connect, run
from tests.services.link_peer import number_of, numbered
from tests.services.links import Party, Place, on, own_redis, pair_at, peer_process, rabbitmqctl

INBOX, COMMAND = QueueKind.INBOX, QueueKind.COMMAND
EVERYWHERE = ("memory", "embedded", "rabbitmq", "redis")
OUTSIDE = ("embedded", "rabbitmq", "redis")
ONE_PROCESS = "it is within one process"

#: bodies that a process which opened them would have to look up classes for
UNPICKLED: list[str] = []
sys.addaudithook(lambda event, _: UNPICKLED.append(event) if event == "pickle.find_class" else None)


@on(*EVERYWHERE)
def test_messages_arrive_whole_and_in_order_both_ways(place: Place) -> None:
    """Messages of all small sizes arrive whole and in order, both ways at once."""

    async def test() -> None:
        left = await connect(place.url, [Queue(place.queue("left"), INBOX)])
        right = await connect(place.url, [Queue(place.queue("right"), INBOX)])
        bodies = [number.to_bytes(2, "big") * (1 + number % 300) for number in range(2000)]
        for start in range(0, len(bodies), 100):
            for body in bodies[start : start + 100]:
                left.link.send(place.queue("right"), body)
                right.link.send(place.queue("left"), body)
            left.flush()
            right.flush()
            await asyncio.sleep(0)
        for owner in (left, right):
            await owner.until(lambda owner: len(owner.received_bodies) == len(bodies))
            assert owner.received_bodies == bodies
        for owner in (left, right):
            owner.link.close()

    run(test)


@on(*EVERYWHERE)
def test_bodies_of_a_mebibyte_arrive_whole(place: Place) -> None:
    """Bodies of 1 MiB arrive whole and in order, as when data crosses the broker."""

    async def test() -> None:
        sender = await connect(place.url)
        receiver = await connect(place.url, [Queue(place.queue("big"), INBOX)])
        for number in range(24):
            sender.link.send(place.queue("big"), numbered(number))
            sender.flush()
            await receiver.until(lambda owner: len(owner.received_bodies) > number - 4)  # noqa: B023
        await receiver.until(lambda owner: len(owner.received_bodies) == 24)
        assert [number_of(body) for body in receiver.received_bodies] == list(range(24))
        sender.link.close()
        receiver.link.close()

    run(test)


@on(*EVERYWHERE)
def test_a_body_over_the_bound_is_refused_at_once(place: Place) -> None:
    """A body over the bound is refused in `send`, and the link goes on; a broker would end the connection for it."""

    async def test() -> None:
        owner = await connect(place.url, [Queue(place.queue("in"), INBOX)])
        with pytest.raises(MessageTooLargeError):
            owner.link.send(place.queue("in"), bytes(owner.link.capabilities.max_message + 1))
        owner.link.send(place.queue("in"), b"fits")
        owner.flush()
        await owner.until(lambda owner: owner.received_bodies == [b"fits"])
        owner.link.close()

    run(test)


@pytest.mark.timeout(180)
@on(*EVERYWHERE)
def test_a_hundred_thousand_messages_arrive_once_and_in_order(place: Place) -> None:
    """100,000 messages of a session arrive once and in order, with answers to a tenth of them."""
    count = 100_000

    async def test() -> None:
        scheduler, client = await pair_at(place)
        for start in range(0, count, 1000):
            for number in range(start, start + 1000):
                client.endpoint.send("scheduler", Release([str(number)]))
                if number % 10 == 0:
                    scheduler.endpoint.send("client-1", KeyLost(str(number)))
            await asyncio.sleep(0)
        await scheduler.until(lambda party: len(party.delivered) == count)
        await client.until(lambda party: len(party.delivered) == count // 10)
        assert [message.keys[0] for message in scheduler.delivered] == [str(number) for number in range(count)]
        assert [message.key for message in client.delivered] == [str(number) for number in range(0, count, 10)]
        scheduler.endpoint.close()
        client.endpoint.close()

    run(test)


@on(*EVERYWHERE)
def test_what_was_lost_with_a_cut_link_is_sent_again(place: Place) -> None:
    """What was lost with either side's link is sent again when it is back, once and in order."""

    async def test() -> None:
        scheduler, client = await pair_at(place)
        sent = 0
        for cut in (scheduler, client, scheduler):
            for _ in range(2):
                for _ in range(200):
                    client.endpoint.send("scheduler", Release([str(sent)]))
                    scheduler.endpoint.send("client-1", KeyLost(str(sent)))
                    sent += 1
                # the first half is on its way, the second finds nobody
                await asyncio.sleep(0)
                cut.link.close()
            await cut.attach()
            scheduler.meet_again(client)
        await scheduler.until(lambda party: len(party.delivered) >= sent)
        await client.until(lambda party: len(party.delivered) >= sent)
        assert [message.keys[0] for message in scheduler.delivered] == [str(number) for number in range(sent)]
        assert [message.key for message in client.delivered] == [str(number) for number in range(sent)]
        assert (scheduler.cuts, client.cuts) == (2, 1)
        scheduler.endpoint.close()
        client.endpoint.close()

    run(test)


@on(*EVERYWHERE)
def test_envelopes_that_come_twice_or_early_are_delivered_once(place: Place) -> None:
    """Envelopes that come twice, or out of order, are delivered once and in order."""

    async def test() -> None:
        scheduler, client = await pair_at(place)
        raw = await connect(place.url)
        order = [number for number in range(1, 301) for _ in range(2)]
        random.Random(1).shuffle(order)
        for number in order:
            raw.link.send(scheduler.queue, _envelope(client, place.token, number, Release([str(number)])))
        raw.flush()
        await scheduler.until(lambda party: len(party.delivered) == 300)
        raw.link.send(scheduler.queue, _envelope(client, place.token, 301, Release(["last"])))
        raw.flush()
        await scheduler.until(lambda party: party.delivered[-1].keys == ["last"])
        expected = [str(number) for number in range(1, 301)] + ["last"]
        assert [message.keys[0] for message in scheduler.delivered] == expected
        raw.link.close()
        scheduler.endpoint.close()
        client.endpoint.close()

    run(test)


def _envelope(sender: Party, cluster: str, sequence: int, *messages: Release) -> bytes:
    header = Header(Kind.DATA, cluster, sender.me.name, sender.me.incarnation, "scheduler", 0, sequence, 0)
    return Keyring(SECRET).seal(sender.me.role, Role.SCHEDULER, header, encode(list(messages)))


@on(*OUTSIDE, without=ONE_PROCESS)
def test_a_killed_receiver_is_noticed_where_the_broker_can_tell(place: Place) -> None:
    """kill -9 of a receiver: senders are told at once where the broker can, and nothing else is harmed."""

    async def test() -> None:
        owner = await connect(place.url, [Queue(place.queue("home"), INBOX)])
        with peer_process(place, "echo", place.queue("first"), place.queue("home")) as first:
            owner.link.send(place.queue("first"), b"there?")
            owner.flush()
            await owner.until(lambda owner: owner.received_bodies == [b"there?"])
            first.kill()
            first.wait()
        if owner.link.capabilities.mandatory:
            async with asyncio.timeout(3):
                while not owner.returned_names:
                    owner.link.send(place.queue("first"), b"gone", mandatory=True)
                    owner.flush()
                    with contextlib.suppress(TimeoutError):
                        await owner.until(lambda owner: owner.returned_names, timeout=0.1)
        else:
            owner.link.send(place.queue("first"), b"gone")
            owner.flush()
        with peer_process(place, "echo", place.queue("second"), place.queue("home")):
            owner.link.send(place.queue("second"), b"and you?")
            owner.flush()
            await owner.until(lambda owner: owner.received_bodies[-1] == b"and you?")
        if place.name == "redis":
            with redis.Redis.from_url(place.url) as client:
                assert 0 < client.ttl(place.queue("first")) <= 600
        owner.link.close()

    run(test)


@on(*OUTSIDE, without=ONE_PROCESS)
def test_a_killed_sender_leaves_whole_messages_only(place: Place) -> None:
    """kill -9 of a sender amid bodies of 1 MiB: what arrives is whole and in order, and the next sender is heard."""

    async def test() -> None:
        owner = await connect(place.url, [Queue(place.queue("home"), INBOX)])
        with peer_process(place, "flood", place.queue("first"), place.queue("home")) as first:
            for count in range(1, 20):
                await owner.until(lambda owner: len(owner.received_bodies) >= count)  # noqa: B023
                owner.link.send(place.queue("first"), b"go on")
                owner.flush()
            first.kill()
            first.wait()
        with peer_process(place, "echo", place.queue("second"), place.queue("home")):
            owner.link.send(place.queue("second"), b"and you?")
            owner.flush()
            await owner.until(lambda owner: owner.received_bodies[-1] == b"and you?")
        numbers = [number_of(body) for body in owner.received_bodies[:-1]]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= 19
        owner.link.close()

    run(test)


@on(
    "embedded",
    "rabbitmq",
    without="in one process nobody dies alone; at Redis what was read is gone, and sessions send it again",
)
def test_a_killed_reader_of_commands_leaves_them_to_the_next(place: Place) -> None:
    """kill -9 of the reader of commands: what it had not acknowledged goes to the next, in order."""

    async def test() -> None:
        owner = await connect(place.url, [Queue(place.queue("home"), INBOX)])
        bodies = [bytes((number,)) for number in range(100)]
        with peer_process(place, "hold", place.queue("cmd"), place.queue("home")) as first:
            for body in bodies:
                owner.link.send(place.queue("cmd"), body, durable=True)
            owner.flush()
            await owner.until(lambda owner: len(owner.received_bodies) == len(bodies))
            first.kill()
            first.wait()
        successor = await connect(place.url, [Queue(place.queue("cmd"), COMMAND)])
        await successor.until(lambda owner: len(owner.received_bodies) == len(bodies))
        assert successor.received_bodies == bodies
        successor.link.close()
        owner.link.close()

    run(test)


@on(*EVERYWHERE)
def test_a_storm_of_reconnects_is_weathered(place: Place) -> None:
    """60 links that come and go, eight at a time: each is heard, and the one that stays is unharmed."""

    async def test() -> None:
        owner = await connect(place.url, [Queue(place.queue("home"), INBOX)])
        gate = asyncio.Semaphore(8)

        async def visit(number: int) -> None:
            async with gate:
                name = place.queue(f"visitor{number}")
                visitor = await connect(place.url, [Queue(name, INBOX)])
                visitor.link.send(place.queue("home"), name.encode())
                visitor.flush()
                await visitor.until(lambda owner: owner.received_bodies == [name.encode()])
                visitor.link.close()

        async def answer() -> None:
            for at in range(60):
                await owner.until(lambda owner: len(owner.received_bodies) > at)  # noqa: B023
                body = owner.received_bodies[at]
                owner.link.send(body.decode(), body)
                owner.flush()

        await asyncio.gather(answer(), *map(visit, range(60)))
        assert sorted(owner.received_bodies) == sorted(place.queue(f"visitor{n}").encode() for n in range(60))
        assert owner.ends == []
        if owner.link.capabilities.peer_death:
            await owner.until(lambda owner: len(owner.returned_names) == 60)
        owner.link.close()

    run(test)


@on(*EVERYWHERE)
def test_tampered_envelopes_are_neither_accepted_nor_opened(place: Place) -> None:
    """Tampered envelopes (100,000 in process, 3,000 elsewhere): none is accepted or unpickled, the next is heard."""
    count = 100_000 if place.name == "memory" else 3000

    async def test() -> None:
        scheduler, client = Party(place, Role.SCHEDULER, "scheduler"), Party(place, Role.CLIENT, "client-1")
        commands = command_queue(place.token)
        await scheduler.attach(Queue(commands, COMMAND))
        await client.attach()
        scheduler.meet_again(client)
        raw = await connect(place.url)
        pickled = b"\x80\x05\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
        good = _envelope(client, place.token, 1, Release([pickled.hex()]))
        chance = random.Random(7)
        UNPICKLED.clear()
        for number in range(count):
            raw.link.send(commands, _tampered(good, chance, pickled))
            if number % 200 == 199:
                raw.flush()
                await scheduler.until(lambda party: party.endpoint.rejected.total() > number - 5000)  # noqa: B023
                await asyncio.sleep(0)
        raw.flush()
        raw.link.send(commands, good)
        raw.flush()
        await scheduler.until(lambda party: party.delivered)
        assert scheduler.delivered == [Release([pickled.hex()])]
        assert scheduler.endpoint.rejected.total() == count
        assert UNPICKLED == []
        raw.link.close()
        scheduler.endpoint.close()
        client.endpoint.close()

    run(test)


def _tampered(good: bytes, chance: random.Random, pickled: bytes) -> bytes:
    """Another envelope than ``good``: a byte changed, cut, longer, or something else altogether."""
    way = chance.randrange(5)
    if way == 0:
        return good[: chance.randrange(1, len(good))]
    if way == 1:
        return good + chance.randbytes(chance.randrange(1, 9))
    if way == 2:
        return pickled + chance.randbytes(chance.randrange(40))
    at = chance.randrange(len(good))
    return good[:at] + bytes((good[at] ^ chance.randrange(1, 256),)) + good[at + 1 :]


@on("embedded", "rabbitmq", "redis", without="it has no bound to reach")
def test_a_broker_without_room_stops_senders_and_loses_nothing(place: Place, tmp_path: Path) -> None:
    """A broker without room tells senders to stop and to go on; all that was sent arrives."""
    if place.name == "embedded":
        _fill_embedded()
    elif place.name == "rabbitmq":
        _fill_rabbitmq(place)
    else:
        _fill_redis(place, tmp_path)


def _fill_embedded() -> None:
    async def test() -> None:
        async with broker_here(memory_limit=1_000_000) as broker:
            holder = Owner(broker.local_link([Queue("cmd", COMMAND)]), acks=False)
            sender = await connect(broker.url)
            await _send(sender, "cmd")
            await sender.until(lambda owner: owner.blocks == [True])
            while not (sender.blocks[-1:] == [False] and len(holder.tags) == 500):
                if holder.tags:
                    holder.link.ack(holder.tags[-1])
                    holder.flush()
                await asyncio.sleep(0)
            sender.link.close()
            holder.link.close()

    run(test)


def _fill_rabbitmq(place: Place) -> None:
    async def test() -> None:
        receiver = await connect(place.url, [Queue(place.queue("in"), INBOX)])
        sender = await connect(place.url)
        await asyncio.to_thread(rabbitmqctl, "set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            await _send(sender, place.queue("in"))
            await sender.until(lambda owner: owner.blocks == [True])
        finally:
            await asyncio.to_thread(rabbitmqctl, "set_vm_memory_high_watermark", "absolute", "512MB")
        await sender.until(lambda owner: owner.blocks == [True, False])
        await receiver.until(lambda owner: len(owner.received_bodies) == 500)
        sender.link.close()
        receiver.link.close()

    run(test)


def _fill_redis(place: Place, folder: Path) -> None:
    async def test() -> None:
        with own_redis(folder) as (url, _), redis.Redis.from_url(url) as client:
            receiver = await connect(url, [Queue(place.queue("in"), INBOX)])
            sender = await connect(url)
            client.config_set("maxmemory", "1mb")
            await _send(sender, place.queue("in"))
            await sender.until(lambda owner: owner.blocks == [True])
            client.config_set("maxmemory", "0")
            await sender.until(lambda owner: owner.blocks == [True, False])
            await receiver.until(lambda owner: len(set(owner.received_bodies)) == 500)
            sender.link.close()
            receiver.link.close()

    run(test)


async def _send(owner: Owner, queue: str) -> None:
    """500 bodies of 10 kB, a few at a time."""
    for start in range(0, 500, 10):
        for number in range(start, start + 10):
            owner.link.send(queue, number.to_bytes(2, "big") * 5000)
        owner.flush()
        await asyncio.sleep(0)
