"""Tokens by which an AMQP broker tells at once that a process is gone, though nobody sends to it.

All holders and watchers of a cluster consume one queue, holders with priority. Each holder puts a token into it, gets
one delivered (its own, or that of another who came at the same time), never acknowledges it, and says which one it has.
When its connection ends, however it ends, the broker puts the token back and delivers it to a watcher, because every
other holder has all that it takes. A broker takes a delivery back that isn't acknowledged for long (RabbitMQ after
30 minutes), so tokens are renewed before.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from amqp.basic_message import Message

from futurebroker.broker_adapters.frames import Piece, Publisher, ack_frame

#: its number among a link's channels
CHANNEL = 3
#: of its consumer
CONSUMER = "token"
#: seconds after which a token is renewed
RENEWAL = 600.0
#: seconds after which a token that didn't come is followed by another
_PATIENCE = 1.0
#: holders come before watchers
_PRIORITY = 10


class HeldToken:
    """A token held on a connection that still is py-amqp's; raises what py-amqp raises."""

    def __init__(self, connection: Any, queue: str, declaration: dict[str, Any], deadline: float) -> None:
        self._queue = queue
        self._publisher = Publisher(CHANNEL, connection.frame_max)
        arrived: list[Any] = []
        channel = connection.channel(CHANNEL)
        channel.auto_decode = False
        channel.basic_qos(0, 1, False)
        channel.queue_declare(queue=queue, **declaration)
        while channel.basic_get(queue, no_ack=True) is not None:
            pass  # of holders that went while nobody watched
        channel.basic_consume(
            queue,
            consumer_tag=CONSUMER,
            no_ack=False,
            arguments={"x-priority": _PRIORITY},
            callback=arrived.append,
        )
        while not arrived:
            channel.basic_publish(Message(uuid.uuid4().hex.encode(), delivery_mode=1), "", queue)
            _drain(connection, arrived, min(deadline, time.monotonic() + _PATIENCE))
            if not arrived and time.monotonic() >= deadline:
                raise TimeoutError("the broker did not answer in time")
        #: what watchers are told when the connection has ended
        self.name = bytes(arrived[0].body).decode(errors="replace")
        self._tag = int(arrived[0].delivery_tag)
        self._renewed = time.monotonic()

    def renew(self, pieces: list[Piece], now: float) -> None:
        """Exchange the delivery for a fresh one of the same name, if it is time; ``pieces`` is sent then."""
        if now - self._renewed >= RENEWAL:
            self._renewed = now
            pieces.append(ack_frame(CHANNEL, self._tag, multiple=False))
            self._publisher.append(pieces, self._queue, self.name.encode(), False, False)

    def renewed(self, body: bytes, tag: int) -> bool:
        """A token came; False if it isn't ours, so that others would be told of the wrong end."""
        self._tag = tag
        return body == self.name.encode()


def _drain(connection: Any, arrived: list[Any], until: float) -> None:
    """Read until something has arrived."""
    while not arrived and (seconds := until - time.monotonic()) > 0:
        try:
            connection.drain_events(timeout=seconds)
        except TimeoutError:
            return
