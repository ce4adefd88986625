"""What the embedded broker refuses stock clients, how it says so, and how connections live and end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest
from amqp.exceptions import (
    AccessRefused,
    AMQPNotImplementedError,
    ConnectionForced,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)

from futurebroker.broker_adapters.credentials import USER
from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from tests.integration.brokers import embedded_broker
from tests.integration.stock_clients import WAIT, broker_for_clients, connect, kombu, publish


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with broker_for_clients() as running:
        yield running


@pytest.fixture
def connection(broker: EmbeddedBroker) -> Any:
    return connect(broker)


@pytest.fixture
def other(broker: EmbeddedBroker) -> Any:
    return connect(broker)


# -- logging in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PLAIN", "AMQPLAIN"])
def test_both_password_mechanisms_log_in(broker: EmbeddedBroker, method: str) -> None:
    """Clients choose: py-amqp prefers AMQPLAIN, most others PLAIN."""
    connect(broker, login_method=method).close()


@pytest.mark.parametrize("wrong", [{"password": "x"}, {"userid": "guest"}, {"password": ""}])
def test_a_wrong_login_is_refused_with_403(broker: EmbeddedBroker, wrong: dict[str, str]) -> None:
    """A client that can be told is told, as RabbitMQ does."""
    with pytest.raises(AccessRefused):
        connect(broker, **wrong)


def test_an_old_client_with_a_wrong_login_sees_the_socket_close(broker: EmbeddedBroker) -> None:
    """A client without authentication_failure_close would take the refusal for a protocol error."""

    class Old(amqp.Connection):  # type: ignore[misc]
        negotiate_capabilities: dict[str, bool] = {}

    with pytest.raises(OSError, match="closed"):
        Old(f"127.0.0.1:{broker.port}", userid=USER, password="x", connect_timeout=WAIT).connect()


def test_another_vhost_is_not_there(broker: EmbeddedBroker) -> None:
    """One cluster, one virtual host; a wrong one is named in the error."""
    with pytest.raises(NotAllowed, match="vhost other not found"):
        connect(broker, virtual_host="other")


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x01\x00\x00"])
def test_a_stranger_gets_the_protocol_header_and_is_closed(broker: EmbeddedBroker, hello: bytes) -> None:
    """The one answer AMQP has for another version, and the end of a port scanner."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=WAIT) as stranger:
        stranger.sendall(hello)
        assert stranger.recv(100) == b"AMQP\x00\x00\x09\x01"
        assert stranger.recv(100) == b""


def test_a_stranger_may_not_announce_a_large_frame(broker: EmbeddedBroker) -> None:
    """Before the login a peer is worth 8 KiB of memory."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=WAIT) as stranger:
        stranger.sendall(b"AMQP\x00\x00\x09\x01" + b"\x01\x00\x00\x00\x01\x00\x00\x00")
        received = b""
        while part := stranger.recv(4096):
            received += part
            if b"FRAME_ERROR" in received:
                break
        assert b"FRAME_ERROR" in received


def test_kombu_reports_the_wrong_password(broker: EmbeddedBroker) -> None:
    """A user who mistyped it must read of access, not of a closed socket."""
    client = kombu.Connection(broker.url, userid=USER, password="wrong")
    with client, pytest.raises(AccessRefused):
        client.connect()


# -- refusals ------------------------------------------------------------------------------------------------------


def test_an_exclusive_queue_is_locked_for_others_and_gone_with_its_owner(connection: Any, other: Any) -> None:
    """Inboxes are safe from everyone but their owner, and don't pile up."""
    name = connection.channel().queue_declare("", exclusive=True).queue
    assert name.startswith("amq.gen-")
    uses: list[Callable[[], Any]] = [
        lambda: other.channel().queue_declare(name, passive=True),
        lambda: other.channel().basic_consume(name),
        lambda: other.channel().basic_get(name),
        lambda: other.channel().queue_delete(name),
    ]
    for use in uses:
        with pytest.raises(ResourceLocked):
            use()
    connection.close()
    with pytest.raises(NotFound):
        other.channel().queue_declare(name, passive=True)


def test_an_exclusive_consumer_is_alone(connection: Any, other: Any) -> None:
    """403, as RabbitMQ says it."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=False)
    channel.basic_consume("q", exclusive=True)
    with pytest.raises(AccessRefused, match="exclusive use"):
        other.channel().basic_consume("q")


@pytest.mark.parametrize(
    ("changed", "label"),
    [
        ({"durable": True}, "durable"),
        ({"auto_delete": True}, "auto_delete"),
        ({"arguments": {"x-max-length": 5}}, "x-max-length"),
        ({"arguments": {"x-single-active-consumer": True}}, "x-single-active-consumer"),
    ],
)
def test_a_redeclaration_with_other_arguments_is_refused(connection: Any, changed: dict[str, Any], label: str) -> None:
    """406 names the argument; the channel ends, the connection and the queue stay."""
    connection.channel().queue_declare("q", auto_delete=False)
    with pytest.raises(PreconditionFailed, match=f"inequivalent arg '{label}'"):
        connection.channel().queue_declare("q", **{"auto_delete": False, **changed})
    connection.channel().queue_declare("q", auto_delete=False)


def test_an_exchange_of_another_type_is_refused(connection: Any) -> None:
    """As for queues."""
    connection.channel().exchange_declare("x", "fanout")
    with pytest.raises(PreconditionFailed, match="inequivalent arg 'type'"):
        connection.channel().exchange_declare("x", "direct")


def test_what_is_not_there_is_not_found(connection: Any) -> None:
    """404 for queues and exchanges, each on a channel of its own."""
    uses: list[Callable[[], Any]] = [
        lambda: connection.channel().queue_declare("no", passive=True),
        lambda: connection.channel().basic_consume("no"),
        lambda: connection.channel().exchange_declare("no", "direct", passive=True),
        lambda: connection.channel().queue_bind("no", "amq.direct", "k"),
    ]
    for use in uses:
        with pytest.raises(NotFound):
            use()
    channel = connection.channel()
    publish(channel, "m", "k", "no")
    with pytest.raises(NotFound, match="no exchange 'no'"):
        channel.wait(amqp.spec.Channel.Close, timeout=WAIT)


@pytest.mark.parametrize(
    "arguments",
    [{"x-queue-type": "quorum"}, {"x-message-ttl": 5}, {"x-dead-letter-exchange": "d"}, {"x-max-priority": 3}],
)
def test_what_is_not_served_is_refused_and_not_ignored(broker: EmbeddedBroker, arguments: dict[str, Any]) -> None:
    """A queue that silently keeps messages past their TTL would be worse than an error."""
    client = connect(broker)
    with pytest.raises(AMQPNotImplementedError):
        client.channel().queue_declare("q", arguments=arguments)


def test_transactions_are_refused(broker: EmbeddedBroker) -> None:
    """540 for a whole class of methods."""
    client = connect(broker)
    with pytest.raises(AMQPNotImplementedError):
        client.channel().tx_select()


def test_unused_queues_expire(connection: Any) -> None:
    """x-expires cleans up after clients that don't come back."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=False, arguments={"x-expires": 100})
    channel.queue_declare("kept", auto_delete=False, arguments={"x-expires": 100})
    channel.basic_consume("kept")
    returned: list[Any] = []
    channel.events["basic_return"].add(lambda *arguments: returned.append(arguments))
    deadline = time.monotonic() + WAIT
    while not returned and time.monotonic() < deadline:
        # a declaration would be a use of the queue; what a publish finds is none
        publish(channel, "", "q", mandatory=True)
        channel.queue_declare("kept", passive=True)
    with pytest.raises(NotFound):
        channel.queue_declare("q", passive=True)
    connection.channel().queue_declare("kept", passive=True)


# -- living and ending -----------------------------------------------------------------------------------------------


def test_a_client_is_told_that_the_broker_closes(broker: EmbeddedBroker) -> None:
    """320 CONNECTION_FORCED, and not a reset."""
    with embedded_broker() as short_lived:
        client = connect(short_lived)
    with pytest.raises(ConnectionForced, match="shutting down"):
        client.drain_events(timeout=WAIT)


def test_heartbeats_keep_a_silent_client(broker: EmbeddedBroker) -> None:
    """Both sides are silent for longer than two intervals and still connected."""
    client = connect(broker, heartbeat=1)
    deadline = time.monotonic() + 3.2
    beats = 0
    while (left := deadline - time.monotonic()) > 0:
        client.heartbeat_tick()
        try:
            client.blocking_read(timeout=min(left, 0.3))
            beats += 1
        except TimeoutError:
            pass
    assert beats >= 4
    client.channel().queue_declare("q")
    client.close()


def test_a_client_without_heartbeats_is_dropped(broker: EmbeddedBroker) -> None:
    """A machine that lost power closes no socket; its inbox must end all the same."""
    client = connect(broker, heartbeat=1)
    with pytest.raises(OSError, match="closed"):
        client.wait(amqp.spec.Connection.Close, timeout=WAIT)


def test_publishers_are_told_when_too_much_waits() -> None:
    """connection.blocked, as with RabbitMQ's memory alarm, and the end of it once the queue is read."""
    with embedded_broker(memory_limit=1_000_000) as broker:
        told: list[str] = []
        publisher = connect(broker, on_blocked=lambda _: told.append("on"), on_unblocked=lambda: told.append("off"))
        reader = connect(broker)
        channel = publisher.channel()
        channel.queue_declare("q", auto_delete=False)
        publish(channel, bytes(2_000_000), "q")
        while told != ["on"]:
            publisher.blocking_read(timeout=WAIT)
        reader.channel().queue_purge("q")
        while told != ["on", "off"]:
            publisher.blocking_read(timeout=WAIT)
        assert channel.queue_declare("q", passive=True).message_count == 0
        publisher.close()
        reader.close()
