"""Stock Kombu and py-amqp clients against the embedded broker: what they know from RabbitMQ works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import amqp
import pytest
from amqp.exceptions import MessageNacked, NotFound, PreconditionFailed

from futurebroker.broker_adapters.credentials import USER
from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from tests.integration.stock_clients import PASSWORD, WAIT, Inbox, broker_for_clients, connect, kombu, publish


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


# -- Kombu ---------------------------------------------------------------------------------------------------------


def test_kombu_declares_binds_publishes_and_consumes(broker: EmbeddedBroker) -> None:
    """The whole path of an ordinary Kombu program, with Kombu's own serializer and a topic exchange."""
    with kombu.Connection(broker.url, userid=USER, password=PASSWORD) as client:
        queue = kombu.Queue("tasks", kombu.Exchange("work", "topic"), routing_key="a.#", channel=client)
        queue.declare()
        got: list[Any] = []

        def keep(body: Any, message: Any) -> None:
            got.append(body)
            message.ack()

        with client.Producer() as producer:
            for key in ("a", "a.b", "b.a", "a.b.c"):
                producer.publish({"key": key}, exchange="work", routing_key=key)
        with client.Consumer([queue], callbacks=[keep]):
            while len(got) < 3:
                client.drain_events(timeout=WAIT)
        assert [body["key"] for body in got] == ["a", "a.b", "a.b.c"]


def test_kombus_simple_queue_works(broker: EmbeddedBroker) -> None:
    """SimpleQueue is what most scripts with Kombu use."""
    with kombu.Connection(broker.url, userid=USER, password=PASSWORD) as client, client.SimpleQueue("simple") as queue:
        queue.put({"n": 1})
        message = queue.get(timeout=WAIT)
        assert message.payload == {"n": 1}
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get_nowait()


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
