"""Clients on the embedded broker's own machine come through its Unix socket, others and in doubt all through TCP."""

from __future__ import annotations

import asyncio
import socket

from futurebroker.broker_adapters.amqp_link import AmqpLink
from futurebroker.broker_adapters.shortcut import connect_here, listen_here
from futurebroker.transport.base import Queue, QueueKind
from tests.integration.brokers import broker_here, connect, run


async def way_to(host: str) -> int:
    """The address family by which a link comes to a broker that listens on ``host``; a message goes there and back."""
    async with broker_here(host=host) as broker:
        owner = await connect(broker.url, [Queue("q", QueueKind.INBOX)])
        assert isinstance(owner.link, AmqpLink)
        family = owner.link._sock.family
        owner.link.send("q", b"hello")
        owner.flush()
        await owner.until(lambda owner: owner.received_bodies == [b"hello"])
        owner.link.close()
        return int(family)


def test_a_client_on_the_same_machine_takes_the_shortcut() -> None:
    """A call's way to its worker and back crosses four sockets; TCP makes each cost a half more."""
    assert asyncio.run(way_to("127.0.0.1")) == socket.AF_UNIX


def test_an_address_without_shortcut_is_reached_by_tcp() -> None:
    """The socket's name stands for one address; another must not be mistaken for it."""
    assert asyncio.run(way_to("127.0.0.2")) == socket.AF_INET


def test_a_broker_whose_shortcut_is_taken_serves_tcp() -> None:
    """Somebody else may hold the name, on purpose even; the port is what counts."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as holder:
        holder.bind(f"\0futurebroker/127.0.0.1:{listener.getsockname()[1]}")
        assert listen_here(listener, 1) is None


def test_the_shortcut_ends_with_its_broker() -> None:
    """Who comes later must find nothing rather than a socket that nobody serves."""

    async def test() -> None:
        async with broker_here() as broker:
            port = broker.port
            with connect_here("127.0.0.1", port, 5) or socket.socket() as sock:
                assert sock.family == socket.AF_UNIX
        assert connect_here("127.0.0.1", port, 5) is None

    run(test)


def test_what_a_client_said_before_it_left_is_read_though_nothing_can_be_written_to_it() -> None:
    """A worker that says goodbye while the scheduler writes to it must not be taken for lost."""

    async def test() -> None:
        async with broker_here() as broker:
            leaver = await connect(broker.url, [Queue("leaver", QueueKind.INBOX)])
            other = await connect(broker.url, [Queue("other", QueueKind.INBOX)])
            assert isinstance(leaver.link, AmqpLink)
            leaver.link.send("other", b"goodbye")
            leaver.link.flush()
            asyncio.get_running_loop().remove_reader(leaver.link._sock.fileno())
            leaver._timer.cancel()
            leaver.link._sock.close()
            here = broker.local_link([])
            here.send("leaver", b"one more")
            here.flush()  # finds the socket closed before the loop has come to what was sent
            await other.until(lambda owner: owner.received_bodies == [b"goodbye"])
            here.close()
            other.link.close()

    run(test)
