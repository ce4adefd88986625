"""A py-amqp client against the embedded broker, as tests of several files use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import amqp
import kombu as annotated_kombu

from futurebroker.broker_adapters.credentials import USER, derive_password
from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from tests.integration.brokers import SECRET, embedded_broker

PASSWORD = derive_password(SECRET)
WAIT = 5.0
#: Kombu is half annotated; tests use it as most of its users do
kombu: Any = annotated_kombu
_opened: list[Any] = []


@contextmanager
def broker_for_clients() -> Iterator[EmbeddedBroker]:
    """A broker; what a test leaves connected is closed before it ends, as several end in the middle of an error."""
    with embedded_broker() as running:
        yield running
        while _opened:
            _opened.pop().collect()


def connect(broker: EmbeddedBroker, **options: Any) -> Any:
    """A connected py-amqp client."""
    options = {"userid": USER, "password": PASSWORD, "connect_timeout": WAIT, **options}
    connection = amqp.Connection(f"127.0.0.1:{broker.port}", **options)
    _opened.append(connection)
    connection.connect()
    return connection


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
