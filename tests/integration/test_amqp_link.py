"""Our own link against the embedded broker: order, sizes, floods, acknowledgements and ends on either side."""

from __future__ import annotations

import asyncio
import socket

import pytest

from futurebroker.broker_adapters.amqp_link import AmqpLink
from futurebroker.exceptions import (
    LinkLostError,
    MessageTooLargeError,
)
from futurebroker.transport.base import Capabilities, Queue, QueueKind
from futurebroker.transport.registry import open_link
from tests.integration.brokers import SECRET, Owner, broker_here, connect, run

INBOX, COMMAND = QueueKind.INBOX, QueueKind.COMMAND


def test_the_embedded_broker_offers_what_sessions_use() -> None:
    """Code adapts to capabilities, so they have to be right."""

    async def test() -> None:
        async with broker_here() as broker:
            client = await connect(broker.url)
            local = Owner(broker.local_link([]))
            expected = Capabilities(
                durable=False,
                confirms=True,
                mandatory=True,
                peer_death=True,
                max_message=16 * 1024 * 1024,
                bulk=True,
            )
            assert client.link.capabilities == local.link.capabilities == expected
            client.link.close()
            local.link.close()

    run(test)


@pytest.mark.parametrize("size", [0, 1, 200, 131_064, 131_065, 1024 * 1024, 5 * 1024 * 1024])
def test_bodies_of_every_size_arrive_in_order(size: int) -> None:
    """One frame, exactly one frame, many frames; to the host of the broker and to another client."""

    async def test() -> None:
        async with broker_here() as broker:
            local = Owner(broker.local_link([Queue("cmd", COMMAND)]))
            first, second = await connect(broker.url), await connect(broker.url, [Queue("inbox", INBOX)])
            bodies = [bytes((number,)) + bytes(size) for number in range(3)]
            for body in bodies:
                first.link.send("cmd", body, durable=True)
                first.link.send("inbox", body)
            first.flush()
            await local.until(lambda owner: len(owner.received_bodies) == 3)
            await second.until(lambda owner: len(owner.received_bodies) == 3)
            assert local.received_bodies == second.received_bodies == bodies
            assert local.queues == ["cmd"] * 3
            assert second.tags == [0, 0, 0]
            for body in bodies:
                local.link.send("inbox", body)
            local.flush()
            await second.until(lambda owner: len(owner.received_bodies) == 6)
            assert second.received_bodies[3:] == bodies
            for owner in (first, second, local):
                owner.link.close()

    run(test)


def test_a_hundred_thousand_small_messages_go_both_ways_at_once() -> None:
    """A flood in each direction, through one socket, without loss or disorder."""
    count = 100_000

    async def test() -> None:
        async with broker_here() as broker:
            local = Owner(broker.local_link([Queue("cmd", COMMAND)]))
            client = await connect(broker.url, [Queue("inbox", INBOX)])
            for start in range(0, count, 500):
                for number in range(start, start + 500):
                    body = number.to_bytes(4, "big")
                    client.link.send("cmd", body, mandatory=True)
                    local.link.send("inbox", body, mandatory=True)
                client.flush()
                local.flush()
                await asyncio.sleep(0)
            await local.until(lambda owner: len(owner.received_bodies) == count)
            await client.until(lambda owner: len(owner.received_bodies) == count)
            expected = [number.to_bytes(4, "big") for number in range(count)]
            assert local.received_bodies == expected
            assert client.received_bodies == expected
            assert client.returned_names == local.returned_names == []
            client.link.close()
            local.link.close()

    run(test)


def test_durable_sends_are_confirmed_once_that_is_asked_for() -> None:
    """Whoever leaves wants to know; whoever stays has the session's acknowledgements."""

    async def test() -> None:
        async with broker_here() as broker:
            local = Owner(broker.local_link([Queue("cmd", COMMAND)]))
            client = await connect(broker.url)
            assert isinstance(client.link, AmqpLink)
            link = client.link
            for number in range(100):
                link.send("cmd", bytes((number,)), durable=True)
            assert link.unconfirmed == 0
            link.begin_confirms()
            for number in range(100):
                link.send("cmd", bytes((number,)), durable=True)
            link.send("cmd", b"transient")
            assert link.unconfirmed == 100
            client.flush()
            await local.until(lambda owner: len(owner.received_bodies) == 201)
            await client.until(lambda owner: owner.confirms >= 1)
            assert link.unconfirmed == 0
            client.link.close()
            local.link.close()

    run(test)


def test_a_send_to_nobody_comes_back() -> None:
    """From a client and from the host of the broker alike; without ``mandatory`` it is dropped."""

    async def test() -> None:
        async with broker_here() as broker:
            owners = [Owner(broker.local_link([])), await connect(broker.url)]
            for owner in owners:
                owner.link.send("dropped", b"x")
                owner.link.send("nobody", b"x", mandatory=True)
                owner.link.send("nobody durable", b"x", durable=True, mandatory=True)
                owner.flush()
                await owner.until(lambda owner: len(owner.returned_names) == 2)
                assert sorted(owner.returned_names) == ["nobody", "nobody durable"]
                owner.link.close()

    run(test)


def test_the_end_of_an_inbox_is_told_to_all_who_sent_to_it() -> None:
    """How the scheduler learns within milliseconds that a worker was killed."""

    async def test() -> None:
        async with broker_here() as broker:
            local, client = Owner(broker.local_link([])), await connect(broker.url)
            stranger = await connect(broker.url)
            worker = await connect(broker.url, [Queue("worker", INBOX)])
            for owner in (local, client):
                owner.link.send("worker", b"run")
                owner.flush()
            await worker.until(lambda owner: len(owner.received_bodies) == 2)
            assert isinstance(worker.link, AmqpLink)
            file = worker.link.fileno()
            assert file is not None
            with socket.socket(fileno=socket.dup(file)) as same:
                same.shutdown(socket.SHUT_RDWR)  # as the kernel does for a killed process
            await local.until(lambda owner: owner.returned_names == ["worker"])
            await client.until(lambda owner: owner.returned_names == ["worker"])
            await worker.until(lambda owner: len(owner.ends) == 1)
            assert isinstance(worker.ends[0], LinkLostError)
            assert stranger.returned_names == []
            for owner in (local, client, stranger):
                owner.link.close()

    run(test)


def test_the_end_of_the_hosts_inbox_is_told_to_clients() -> None:
    """Workers hear that the scheduler of this epoch left."""

    async def test() -> None:
        async with broker_here() as broker:
            local, client = Owner(broker.local_link([Queue("evt", INBOX)])), await connect(broker.url)
            client.link.send("evt", b"x")
            client.flush()
            await local.until(lambda owner: owner.received_bodies == [b"x"])
            local.link.close()
            assert local.ends == [None]
            await client.until(lambda owner: owner.returned_names == ["evt"])
            client.link.close()

    run(test)


def test_a_command_queue_keeps_what_was_not_acknowledged() -> None:
    """The next scheduler gets it, in order, before what came later; with 300 in flight at most."""

    async def test() -> None:
        async with broker_here() as broker:
            first = await connect(broker.url, [Queue("cmd", COMMAND)], acks=False)
            client = await connect(broker.url)
            for number in range(1000):
                client.link.send("cmd", number.to_bytes(2, "big"))
            client.flush()
            await first.until(lambda owner: len(owner.received_bodies) == 300)
            first.link.ack(first.tags[99])
            first.flush()
            await first.until(lambda owner: len(owner.received_bodies) == 400)
            standby = await connect(broker.url, [Queue("cmd", COMMAND)])
            first.link.close()
            await standby.until(lambda owner: len(owner.received_bodies) == 900)
            assert standby.received_bodies == [number.to_bytes(2, "big") for number in range(100, 1000)]
            standby.link.close()
            client.link.close()

    run(test)


def test_the_hosts_command_queue_keeps_what_was_not_acknowledged() -> None:
    """The same for the link without a socket."""

    async def test() -> None:
        async with broker_here() as broker:
            first = Owner(broker.local_link([Queue("cmd", COMMAND)]), acks=False)
            client = await connect(broker.url)
            for number in range(1000):
                client.link.send("cmd", number.to_bytes(2, "big"))
            client.flush()
            await first.until(lambda owner: len(owner.received_bodies) == 300)
            first.link.ack(first.tags[99])
            await first.until(lambda owner: len(owner.received_bodies) == 400)
            first.link.close()
            second = Owner(broker.local_link([Queue("cmd", COMMAND)]))
            await second.until(lambda owner: len(owner.received_bodies) == 900)
            assert second.received_bodies == [number.to_bytes(2, "big") for number in range(100, 1000)]
            second.link.close()
            client.link.close()

    run(test)


def test_acks_of_several_command_queues_do_not_touch_each_other() -> None:
    """An ack means "all before it on its queue", while AMQP's means "on its channel"."""

    async def test() -> None:
        async with broker_here() as broker:
            first = await connect(broker.url, [Queue("a", COMMAND), Queue("b", COMMAND)], acks=False)
            client = await connect(broker.url)
            for name in ("a", "b", "a", "b"):
                client.link.send(name, name.encode())
            client.flush()
            await first.until(lambda owner: len(owner.tags) == 4)
            first.link.ack(max(tag for tag, queue in zip(first.tags, first.queues) if queue == "b"))
            first.link.close()
            second = await connect(broker.url, [Queue("a", COMMAND), Queue("b", COMMAND)])
            await second.until(lambda owner: len(owner.tags) == 2)
            assert second.queues == ["a", "a"]
            second.link.close()
            client.link.close()

    run(test)


def test_what_was_sent_before_close_arrives() -> None:
    """A goodbye is the last thing a process sends."""

    async def test() -> None:
        async with broker_here() as broker:
            local = Owner(broker.local_link([Queue("cmd", COMMAND)]))
            client = await connect(broker.url, [Queue("inbox", INBOX)])
            for number in range(50):
                local.link.send("inbox", b"unread" * 100)
                client.link.send("cmd", bytes((number,)))
            local.flush()
            client.link.close()
            client.link.close()
            await local.until(lambda owner: len(owner.received_bodies) == 50)
            assert client.ends == [None]
            client.link.send("cmd", b"dropped")
            client.link.flush()
            assert client.link.fileno() is None
            assert not client.link.wants_write()
            local.link.close()

    run(test)


def test_the_brokers_end_is_told_with_its_reason() -> None:
    """On both kinds of link, once."""

    async def test() -> None:
        async with broker_here() as broker:
            local, client = Owner(broker.local_link([])), await connect(broker.url)
        await client.until(lambda owner: owner.ends)
        await local.until(lambda owner: owner.ends)
        assert "shutting down" in str(client.ends[0])
        assert "closed" in str(local.ends[0])
        client.link.close()
        local.link.close()
        assert len(client.ends) == len(local.ends) == 1

    run(test)


def test_a_reader_that_stands_still_does_not_fill_the_brokers_memory() -> None:
    """Its queue keeps the messages, the output buffer stays bounded, and all arrive once it reads."""

    async def test() -> None:
        async with broker_here() as broker:
            local = Owner(broker.local_link([]))
            slow = await asyncio.to_thread(
                open_link, broker.url, [Queue("slow", INBOX)], secret=SECRET, timeout=10, name="slow"
            )
            bodies = [bytes((number,)) * 100_000 for number in range(200)]
            for body in bodies:
                local.link.send("slow", body)
                local.flush()
                await asyncio.sleep(0)
            assert broker.entities.queues["slow"].bytes > 5_000_000
            owner = Owner(slow)
            await owner.until(lambda owner: len(owner.received_bodies) == 200)
            assert owner.received_bodies == bodies
            assert broker.entities.gauge.used == 0
            slow.close()
            local.link.close()

    run(test)


def test_a_writer_whose_socket_is_full_goes_on_when_it_has_room() -> None:
    """``flush`` never blocks: the rest follows on ``on_writable``."""

    async def test() -> None:
        async with broker_here() as broker:
            local, client = Owner(broker.local_link([Queue("cmd", COMMAND)])), await connect(broker.url)
            bodies = [bytes((number,)) * 1_000_000 for number in range(20)]
            for body in bodies:
                client.link.send("cmd", body)
            client.flush()
            assert client.link.wants_write()
            await local.until(lambda owner: len(owner.received_bodies) == 20)
            assert local.received_bodies == bodies
            assert not client.link.wants_write()
            client.link.close()
            local.link.close()

    run(test)


def test_senders_are_told_to_stop_and_to_go_on() -> None:
    """The alarm reaches the client and the host itself; what was sent meanwhile is not lost."""

    async def test() -> None:
        async with broker_here(memory_limit=1_000_000) as broker:
            holder = Owner(broker.local_link([Queue("cmd", COMMAND)]), acks=False)
            local, client = Owner(broker.local_link([])), await connect(broker.url)
            for _ in range(500):
                client.link.send("cmd", bytes(10_000))
            client.flush()
            await client.until(lambda owner: owner.blocks == [True])
            local.link.send("cmd", bytes(10_000))
            await local.until(lambda owner: owner.blocks == [True])
            await holder.until(lambda owner: len(owner.tags) == 300)
            while not (client.blocks == local.blocks == [True, False] and len(holder.tags) == 501):
                holder.link.ack(holder.tags[-1])
                holder.flush()
                await asyncio.sleep(0)
            for owner in (holder, local, client):
                owner.link.close()

    run(test)


def test_heartbeats_keep_a_silent_link_and_end_a_dead_one() -> None:
    """Nothing is sent for three intervals; then the broker stands still and the link says so."""

    async def test() -> None:
        async with broker_here(heartbeat=1) as broker:
            client = await connect(broker.url)
            now = broker.loop.time()
            with pytest.raises(TimeoutError):
                await client.until(lambda owner: owner.ends, timeout=3.2)
            link = client.link
            for step in range(6):  # ticks of a broker that sends nothing; the loop does not run between them
                link.tick(now + 100 + step)
            assert [str(end) for end in client.ends] == [
                f"the connection to the broker at {broker.url} ended: nothing was heard from it for 2 s"
            ]

    run(test)


def test_a_message_over_the_bound_is_refused_at_once() -> None:
    """RabbitMQ would close the channel some time later, with everything on it."""

    async def test() -> None:
        async with broker_here() as broker:
            for owner in (Owner(broker.local_link([])), await connect(broker.url)):
                with pytest.raises(MessageTooLargeError):
                    owner.link.send("q", bytes(16 * 1024 * 1024 + 1))
                owner.link.close()

    run(test)
