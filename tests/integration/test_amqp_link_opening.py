"""Opening links: which address is tried, what is refused, and that the error says in one sentence what to change."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from futurebroker.broker_adapters.embedded.queues import QueueSettings
from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from futurebroker.exceptions import BrokerRefusedError, BrokerUnreachableError, ConfigError
from futurebroker.transport.base import Queue, QueueKind
from futurebroker.transport.registry import open_link
from tests.integration.brokers import SECRET, Owner, broker_here, connect, run

INBOX, COMMAND = QueueKind.INBOX, QueueKind.COMMAND
TLS_FOLDER = Path(__file__).parent / "tls"


@asynccontextmanager
async def tls_in_front_of(port: int) -> AsyncIterator[int]:
    """A TLS endpoint that passes everything on to ``port``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS_FOLDER / "server.pem", TLS_FOLDER / "server.key")
    passing: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        passing.update((asyncio.create_task(copy(reader, back)), asyncio.create_task(copy(there, writer))))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*passing)
        await server.wait_closed()


async def refusal(url: str, queues: list[Queue] | None = None, *, secret: bytes = SECRET, timeout: float = 5) -> str:
    """The text of the error with which opening fails."""
    with pytest.raises((BrokerRefusedError, BrokerUnreachableError)) as caught:
        await asyncio.to_thread(open_link, url, queues or [], secret=secret, timeout=timeout, name="t")
    return str(caught.value)


def test_what_the_broker_refuses_is_said_in_one_sentence() -> None:
    """Each with what to change, and never with a password."""

    async def test() -> None:
        async with broker_here() as broker:
            address = f"127.0.0.1:{broker.port}"
            first = await connect(broker.url, [Queue("inbox", INBOX), Queue("cmd", COMMAND)])
            assert "the secret here and the secret of the scheduler differ" in await refusal(
                broker.url, secret=b"another secret!!"
            )
            text = await refusal(f"amqp://ann:hidden@{address}/")
            assert "not accepted for the user 'ann'" in text
            assert "hidden" not in text
            text = await refusal(f"amqp://futurebroker:{broker.password}@{address}/other")
            assert "the virtual host 'other' is not there" in text
            assert broker.password not in text
            assert "belongs to someone else" in await refusal(broker.url, [Queue("inbox", INBOX)])
            assert "belongs to someone else" in await refusal(broker.url, [Queue("inbox", COMMAND)])
            assert "belongs to someone else" in await refusal(broker.url, [Queue("cmd", INBOX)])
            broker.entities.declare_queue("old", QueueSettings(durable=True), None)
            assert "a queue exists with other settings" in await refusal(broker.url, [Queue("old", COMMAND)])
            with pytest.raises(BrokerRefusedError):
                broker.local_link([Queue("cmd", INBOX)])
            first.link.close()

    run(test)


def test_what_is_not_there_is_said_in_one_sentence() -> None:
    """Refused, unknown, silent and no AMQP are four different problems of the user's."""

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            assert "it did not answer in time" in await refusal(f"amqp://{address}", timeout=0.3)
            assert "did not answer in time" in await refusal(f"amqps://{address}", timeout=0.3)
        assert "nothing listens there" in await refusal(f"amqp://{address}")
        assert "there is no host 'no.such.host.invalid'" in await refusal("amqp://no.such.host.invalid")
        async with broker_here() as broker:
            assert "TLS failed" in await refusal(f"amqps://127.0.0.1:{broker.port}")

    run(test)


def test_the_next_address_is_tried() -> None:
    """A list of brokers, of which the first is gone and the second does not answer."""

    async def test() -> None:
        async with broker_here() as broker:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                port = silent.getsockname()[1]
                urls = f"amqp://127.0.0.1:1;amqp://127.0.0.1:{port};{broker.url}"
                link = await asyncio.to_thread(open_link, urls, [], secret=SECRET, timeout=1, name="t")
                link.close()

    run(test)


@pytest.mark.parametrize(
    "url", ["amqp://host:port", "amqp://host:99999", "amqp://a:secret@b;http://c", "amqp://h/?x=1"]
)
def test_an_address_that_is_none_is_refused_without_being_shown(url: str) -> None:
    """It may hold a password."""
    with pytest.raises(ConfigError) as caught:
        open_link(url, [], secret=SECRET, timeout=0.1, name="t")
    assert "secret" not in str(caught.value)


def test_a_host_that_others_can_reach_needs_a_secret() -> None:
    """A short or empty secret is fine on loopback only."""
    EmbeddedBroker(b"", "127.0.0.1")
    EmbeddedBroker(b"", "::1")
    EmbeddedBroker(bytes(16), "0.0.0.0")
    for host in ("0.0.0.0", "", "192.0.2.1", "example.com"):
        with pytest.raises(ConfigError, match="at least 16 bytes"):
            EmbeddedBroker(b"short", host)


def test_tls_carries_everything_and_checks_the_host_name() -> None:
    """TLS hides decrypted bytes from the poller, so nothing may be left unread; and a wrong host is no broker."""

    async def test() -> None:
        async with broker_here() as broker, tls_in_front_of(broker.port) as port:
            password = f"futurebroker:{broker.password}"
            host = f"localhost:{port}/?cacertfile={TLS_FOLDER / 'server.pem'}"
            local = Owner(broker.local_link([Queue("cmd", COMMAND)]))
            client = await connect(f"amqps://{password}@{host}", [Queue("inbox", INBOX)])
            bodies = [bytes((number,)) * size for number in range(5) for size in (1, 300, 16_384, 200_000, 3_000_000)]
            for body in bodies:
                client.link.send("cmd", body)
                local.link.send("inbox", body)
            client.flush()
            local.flush()
            await local.until(lambda owner: len(owner.received_bodies) == len(bodies))
            await client.until(lambda owner: len(owner.received_bodies) == len(bodies))
            assert local.received_bodies == client.received_bodies == bodies
            client.link.close()
            local.link.close()
            wrong_host = f"amqps://{password}@{host.replace('localhost', '127.0.0.1')}"
            assert "TLS certificate is not valid here: IP address mismatch" in await refusal(wrong_host)
            assert "TLS certificate is not valid here: self" in await refusal(f"amqps://{password}@localhost:{port}")

    run(test)
