"""Looks at a broker's queues from outside, without consuming anything: for `futurebroker doctor`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from amqp.exceptions import AMQPError, NotFound

from futurebroker.broker_adapters.connection import (
    Address,
    connect,
    connect_first,
    explain,
    limit_time,
    parse_addresses,
)


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """How a queue stands at this moment."""

    messages: int  #: waiting, without those that a reader holds
    consumers: int


@dataclass(frozen=True, slots=True)
class BrokerFigures:
    """A broker, and queues that were asked about."""

    product: str  #: name and version, as it says itself
    is_tls: bool
    queues: dict[str, QueueFigures | None]  #: None: there is none of that name


def inspect(url: str, queues: list[str], *, secret: bytes, timeout: float) -> BrokerFigures:
    """What the first AMQP broker of ``url`` that works says of itself and of ``queues``.

    Raises:
        ClusterConnectionError: nothing is there, or it refused us; the message says what to change.
    """

    def open_one(address: Address, until: float) -> BrokerFigures:
        return _inspect(address, queues, until)

    figures: BrokerFigures = connect_first(parse_addresses(url, secret), time.monotonic() + timeout, open_one)
    return figures


def _inspect(address: Address, queues: list[str], deadline: float) -> BrokerFigures:
    connection = connect(address, deadline, "doctor")
    found: dict[str, QueueFigures | None] = {}
    try:
        for name in queues:
            limit_time(connection, deadline)
            # one each: the broker closes the channel that asks for a queue that isn't there
            channel = connection.channel()
            try:
                declared = channel.queue_declare(queue=name, passive=True)
                found[name] = QueueFigures(declared.message_count, declared.consumer_count)
            except NotFound:
                found[name] = None
        properties = connection.server_properties
    except (OSError, AMQPError) as error:
        raise explain(error, address) from error
    finally:
        connection.collect()
    product = " ".join(str(properties[name]) for name in ("product", "version") if properties.get(name))
    return BrokerFigures(product or "AMQP broker", address.is_tls, found)
