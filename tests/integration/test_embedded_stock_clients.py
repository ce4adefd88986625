"""Stock Kombu and py-amqp clients against the embedded broker: what they know from RabbitMQ works or says why not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import amqp
import kombu
import pytest
from amqp.exceptions import (
    AccessRefused,
    AMQPNotImplementedError,
    ConnectionForced,
    MessageNacked,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from kombu.connection import Connection as KombuConnection

from futurebroker.broker_adapters.credentials import USER, derive_password
from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from tests.integration.brokers import SECRET, embedded_broker

PASSWORD = derive_password(SECRET)
WAIT = 5.0


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with embedded_broker() as running:
        yield running


_opened: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    """Whatever a test leaves connected is closed; several end in the middle of an error."""
    yield
    while _opened:
        _opened.pop().collect()


def connect(broker: EmbeddedBroker, **options: Any) -> Any:
    """A connected py-amqp client."""
    options = {"userid": USER, "password": PASSWORD, "connect_timeout": WAIT, **options}
    connection = amqp.Connection(f"127.0.0.1:{broker.port}", **options)
    _opened.append(connection)
    connection.connect()
    return connection


@pytest.fixture
def connection(broker: EmbeddedBroker) -> Any:
    return connect(broker)


@pytest.fixture
def other(broker: EmbeddedBroker) -> Any:
    return connect(broker)


class Inbox:
    """Collects what a channel's consumer gets."""

    def __init__(self, channel: Any, queue: str, **options: Any) -> None:
        self.channel = channel
        self.messages: list[Any] = []
        self.tag = channel.basic_consume(queue, callback=self.messages.append, **options)

    def bodies(self, count: int) -> list[Any]:
        while len(self.messages) < count:
            self.channel.connection.drain_events(timeout=WAIT)
        return [message.body for message in self.messages]


def publish(channel: Any, body: Any, key: str, exchange: str = "", **options: Any) -> None:
    channel.basic_publish(amqp.Message(body), exchange=exchange, routing_key=key, **options)


# -- Kombu ---------------------------------------------------------------------------------------------------------


def test_kombu_declares_binds_publishes_and_consumes(broker: EmbeddedBroker) -> None:
    """The whole path of an ordinary Kombu program, with Kombu's own serializer and a topic exchange."""
    with KombuConnection(broker.url, userid=USER, password=PASSWORD) as client:
        queue = kombu.Queue("tasks", kombu.Exchange("work", "topic"), routing_key="a.#", channel=client)
        queue.declare()
        got: list[Any] = []
        with client.Producer() as producer:
            for key in ("a", "a.b", "b.a", "a.b.c"):
                producer.publish({"key": key}, exchange="work", routing_key=key)
        with client.Consumer([queue], callbacks=[lambda body, message: (got.append(body), message.ack())]):
            while len(got) < 3:
                client.drain_events(timeout=WAIT)
        assert [body["key"] for body in got] == ["a", "a.b", "a.b.c"]


def test_kombus_simple_queue_works(broker: EmbeddedBroker) -> None:
    """SimpleQueue is what most scripts with Kombu use."""
    with KombuConnection(broker.url, userid=USER, password=PASSWORD) as client, client.SimpleQueue("simple") as queue:
        queue.put({"n": 1})
        message = queue.get(timeout=WAIT)
        assert message.payload == {"n": 1}
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get_nowait()


def test_kombu_reports_the_wrong_password(broker: EmbeddedBroker) -> None:
    """A user who mistyped it must read of access, not of a closed socket."""
    client = KombuConnection(broker.url, userid=USER, password="wrong")
    with client, pytest.raises(AccessRefused, match="ACCESS_REFUSED"):
        client.connect()


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

    class Old(amqp.Connection):
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


# -- publishing ----------------------------------------------------------------------------------------------------


def test_publishes_are_confirmed_one_by_one(broker: EmbeddedBroker) -> None:
    """confirm_publish waits for each; it must not wait for ever."""
    client = connect(broker, confirm_publish=True)
    channel = client.channel()
    channel.queue_declare("q", auto_delete=False)
    for number in range(20):
        publish(channel, str(number), "q", timeout=WAIT)
    assert channel.queue_declare("q", passive=True).message_count == 20
    client.close()


def test_a_full_queue_refuses_the_publisher(broker: EmbeddedBroker) -> None:
    """x-max-length with reject-publish is how a stock producer feels back-pressure."""
    client = connect(broker, confirm_publish=True)
    channel = client.channel()
    channel.queue_declare("q", auto_delete=False, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    publish(channel, "1", "q")
    publish(channel, "2", "q")
    with pytest.raises(MessageNacked):
        publish(channel, "3", "q")
    client.close()


def test_a_full_queue_drops_its_oldest_by_default(connection: Any) -> None:
    """Without reject-publish RabbitMQ drops from the head; observers' queues rely on that."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=False, arguments={"x-max-length-bytes": 10})
    for body in ("aaaa", "bbbb", "cccc"):
        publish(channel, body, "q")
    assert [channel.basic_get("q").body for _ in range(2)] == ["bbbb", "cccc"]


def test_an_unroutable_mandatory_message_comes_back(connection: Any) -> None:
    """The only way to learn that nobody listens."""
    channel = connection.channel()
    returned: list[tuple[Any, ...]] = []
    channel.events["basic_return"].add(lambda *arguments: returned.append(arguments))
    publish(channel, "lost", "nobody", mandatory=True)
    while not returned:
        connection.drain_events(timeout=WAIT)
    exception, exchange, key, message = returned[0]
    assert (exception.reply_code, exchange, key, message.body) == (312, "", "nobody", "lost")


def test_a_message_over_16_mib_closes_the_channel(connection: Any) -> None:
    """The same bound and the same error as RabbitMQ 4; the connection goes on."""
    channel = connection.channel()
    publish(channel, bytes(16 * 1024 * 1024 + 1), "q")
    with pytest.raises(PreconditionFailed, match="max size"):
        channel.wait(amqp.spec.Channel.Close, timeout=WAIT)
    connection.channel().queue_declare("q")


def test_properties_and_headers_arrive_as_they_were(connection: Any) -> None:
    """The broker passes properties on as bytes; nothing may be lost or added."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=False)
    properties = {
        "content_type": "text/x",
        "application_headers": {"a": [1, {"b": "c"}]},
        "delivery_mode": 2,
        "priority": 4,
        "correlation_id": "id",
        "reply_to": "me",
        "message_id": "m",
    }
    channel.basic_publish(amqp.Message(b"body", **properties), routing_key="q")
    assert channel.basic_get("q", no_ack=True).properties == properties


def test_exchanges_route_by_their_type(connection: Any) -> None:
    """direct by equality, fanout to all, topic by words."""
    channel = connection.channel()
    for kind in ("direct", "fanout", "topic"):
        channel.exchange_declare(f"x.{kind}", kind)
        for number, key in enumerate(("a.b", "a.*", "#")):
            name, _, _ = channel.queue_declare(f"{kind}.{number}")
            channel.queue_bind(name, f"x.{kind}", key)
        publish(channel, "m", "a.b", f"x.{kind}")
        publish(channel, "m", "c", f"x.{kind}")
    counts = {
        kind: [channel.queue_declare(f"{kind}.{number}", passive=True).message_count for number in range(3)]
        for kind in ("direct", "fanout", "topic")
    }
    assert counts == {"direct": [1, 0, 0], "fanout": [2, 2, 2], "topic": [1, 1, 2]}
    channel.queue_unbind("topic.2", "x.topic", "#")
    publish(channel, "m", "c", "x.topic")
    assert channel.queue_declare("topic.2", passive=True).message_count == 2


# -- consuming -----------------------------------------------------------------------------------------------------


def test_rejected_messages_come_back_in_front_and_marked(connection: Any) -> None:
    """Requeued work keeps its place and tells that it was seen before; a drop is final."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=False)
    for body in ("1", "2"):
        publish(channel, body, "q")
    first = channel.basic_get("q")
    assert (first.body, first.delivery_info["redelivered"], first.delivery_info["message_count"]) == ("1", False, 1)
    channel.basic_reject(first.delivery_tag, requeue=True)
    again = channel.basic_get("q")
    assert (again.body, again.delivery_info["redelivered"]) == ("1", True)
    channel.basic_reject(again.delivery_tag, requeue=False)
    assert channel.basic_get("q", no_ack=True).body == "2"
    assert channel.basic_get("q") is None


def test_prefetch_bounds_what_is_unacknowledged(connection: Any) -> None:
    """A slow consumer leaves the rest to others; acks let it go on."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=False)
    for number in range(7):
        publish(channel, str(number), "q")
    channel.basic_qos(0, 3, False)
    inbox = Inbox(channel, "q")
    assert inbox.bodies(3) == ["0", "1", "2"]
    assert channel.queue_declare("q", passive=True).message_count == 4
    channel.basic_ack(inbox.messages[1].delivery_tag, multiple=True)
    assert inbox.bodies(5)[3:] == ["3", "4"]
    assert channel.queue_declare("q", passive=True).message_count == 2


def test_consumers_take_turns_and_priority_goes_first(connection: Any) -> None:
    """Equal consumers share; one with a higher x-priority gets all it takes."""
    channel = connection.channel()
    channel.queue_declare("q")
    first, second = Inbox(channel, "q", no_ack=True), Inbox(channel, "q", no_ack=True)
    for number in range(4):
        publish(channel, str(number), "q")
    while len(first.messages) + len(second.messages) < 4:
        connection.drain_events(timeout=WAIT)
    assert sorted([first.bodies(2), second.bodies(2)]) == [["0", "2"], ["1", "3"]]
    high = Inbox(channel, "q", no_ack=True, arguments={"x-priority": 5})
    for number in range(3):
        publish(channel, str(number), "q")
    assert high.bodies(3) == ["0", "1", "2"]


def test_the_next_consumer_of_a_single_active_queue_takes_over(connection: Any, other: Any) -> None:
    """Failover of schedulers rests on it: unacknowledged commands go to the standby, in order."""
    arguments = {"x-single-active-consumer": True}
    for client in (connection, other):
        client.the_channel = client.channel()
        client.the_channel.queue_declare("cmd", durable=True, auto_delete=False, arguments=arguments)
    active, standby = Inbox(connection.the_channel, "cmd"), Inbox(other.the_channel, "cmd")
    for number in range(3):
        publish(other.the_channel, str(number), "cmd")
    assert active.bodies(3) == ["0", "1", "2"]
    connection.the_channel.basic_ack(active.messages[0].delivery_tag)
    connection.close()
    assert standby.bodies(2) == ["1", "2"]
    assert [message.delivery_info["redelivered"] for message in standby.messages] == [True, True]


def test_recover_gives_everything_again(connection: Any) -> None:
    """basic.recover is how a client starts over on a channel."""
    channel = connection.channel()
    channel.queue_declare("q")
    inbox = Inbox(channel, "q")
    publish(channel, "m", "q")
    inbox.bodies(1)
    channel.basic_recover(requeue=True)
    assert inbox.bodies(2) == ["m", "m"]


def test_an_unknown_delivery_tag_closes_the_channel(connection: Any) -> None:
    """A stale ack is a bug of the client's, and RabbitMQ says so."""
    channel = connection.channel()
    channel.basic_ack(99)
    with pytest.raises(PreconditionFailed, match="unknown delivery tag 99"):
        channel.wait(amqp.spec.Channel.Close, timeout=WAIT)


def test_cancel_stops_deliveries_and_ends_an_auto_delete_queue(connection: Any) -> None:
    """auto_delete means: gone with the last consumer."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=True)
    inbox = Inbox(channel, "q")
    channel.basic_cancel(inbox.tag)
    with pytest.raises(NotFound):
        channel.queue_declare("q", passive=True)


def test_a_consumer_is_told_when_its_queue_is_deleted(connection: Any, other: Any) -> None:
    """Without basic.cancel it would wait for ever."""
    channel, cancelled = connection.channel(), list[str]()
    channel.queue_declare("q", auto_delete=False)
    channel.basic_consume("q", callback=print, on_cancel=cancelled.append, consumer_tag="mine")
    assert other.channel().queue_delete("q") == 0
    while not cancelled:
        connection.drain_events(timeout=WAIT)
    assert cancelled == ["mine"]


def test_a_channel_that_is_not_flowing_gets_nothing(connection: Any) -> None:
    """channel.flow lets a client pause without cancelling."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=False)
    inbox = Inbox(channel, "q", no_ack=True)
    channel.flow(False)
    publish(channel, "m", "q")
    assert channel.queue_declare("q", passive=True).message_count == 1
    channel.flow(True)
    assert inbox.bodies(1) == ["m"]


def test_purge_empties_a_queue(connection: Any) -> None:
    """The answer says how many messages went."""
    channel = connection.channel()
    channel.queue_declare("q", auto_delete=False)
    publish(channel, "1", "q")
    publish(channel, "2", "q")
    assert channel.queue_purge("q") == 2
    assert channel.basic_get("q") is None


# -- refusals ------------------------------------------------------------------------------------------------------


def test_an_exclusive_queue_is_locked_for_others_and_gone_with_its_owner(connection: Any, other: Any) -> None:
    """Inboxes are safe from everyone but their owner, and don't pile up."""
    name = connection.channel().queue_declare("", exclusive=True).queue
    assert name.startswith("amq.gen-")
    for use in (
        lambda: other.channel().queue_declare(name, passive=True),
        lambda: other.channel().basic_consume(name),
        lambda: other.channel().basic_get(name),
        lambda: other.channel().queue_delete(name),
    ):
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
    for use in (
        lambda: connection.channel().queue_declare("no", passive=True),
        lambda: connection.channel().basic_consume("no"),
        lambda: connection.channel().exchange_declare("no", "direct", passive=True),
        lambda: connection.channel().queue_bind("no", "amq.direct", "k"),
    ):
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
