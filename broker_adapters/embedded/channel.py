"""One AMQP channel of one peer: what its methods do, and what was delivered on it and not yet acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any, Protocol

from futurebroker.broker_adapters.embedded.arguments import consumer_priority, decode, queue_settings
from futurebroker.broker_adapters.embedded.entities import Entities
from futurebroker.broker_adapters.embedded.queues import Consumer, Message, MessageQueue, Sender
from futurebroker.broker_adapters.frames import (
    BASIC_ACK,
    BASIC_GET_OK,
    BASIC_NACK,
    BASIC_RETURN,
    AmqpError,
    Deliverer,
    Piece,
    ack_frame,
    append_content,
    method_frame,
    route_of,
    short_string,
    signature,
    split_route,
)

#: bytes waiting for one socket from which on its consumers get nothing more; their queues keep it
HIGH_WATER = 1024 * 1024
#: estimate of what frames add to a body, so that many tiny messages count as well
_FRAMING = 150
_NO_PROPERTIES = b"\x00\x00"


class Connection(Protocol):
    """What a channel needs of the connection it is on."""

    entities: Entities
    pieces: list[Piece]  #: what waits for the socket; append and call `mark`
    waiting: int  #: bytes in ``pieces``, estimated
    frame_max: int
    tells_cancel: bool  #: the peer understands basic.cancel from us
    tells_inbox_end: bool  #: the peer understands that an inbox it sent to has ended

    def mark(self) -> None:
        """Bytes were appended; they leave soon."""

    def hold_back(self) -> None:
        """The peer published while too much waits: tell it, and stop reading from it."""

    def touch(self, queue: MessageQueue) -> None:
        """The queue was used; its ``x-expires`` starts anew."""


class _Route:
    """Where messages with one exchange, routing key and set of flags go; right as long as ``version`` is."""

    __slots__ = ("version", "queues", "mandatory", "route")

    def __init__(self, version: int, queues: list[MessageQueue], mandatory: bool, route: bytes) -> None:
        self.version = version
        self.queues = queues
        self.mandatory = mandatory
        self.route = route


class ChannelConsumer(Consumer):
    """A consumer at the other end of a socket."""

    def __init__(
        self, channel: Channel, queue: MessageQueue, tag: str, *, no_ack: bool, exclusive: bool, priority: int
    ) -> None:
        super().__init__(queue, tag, no_ack=no_ack, exclusive=exclusive, priority=priority)
        self._channel = channel
        self._connection = channel.connection
        self._deliverer = Deliverer(channel.number, tag, channel.connection.frame_max)
        self.prefetch = channel.consumer_prefetch
        self.in_flight = 0

    def is_ready(self) -> bool:
        channel = self._channel
        if self._connection.waiting >= HIGH_WATER or not channel.is_flowing:
            return False
        if self.no_ack:
            return True
        if self.prefetch and self.in_flight >= self.prefetch:
            return False
        return not channel.prefetch or len(channel.unacked) < channel.prefetch

    def deliver(self, message: Message) -> None:
        channel, connection, body = self._channel, self._connection, message.body
        channel.last_tag = tag = channel.last_tag + 1
        if not self.no_ack:
            channel.unacked[tag] = (self.queue, self, message)
            self.in_flight += 1
        self._deliverer.append(connection.pieces, tag, message.redelivered, message.route, message.properties, body)
        connection.waiting += len(body) + _FRAMING
        connection.mark()

    def cancelled(self) -> None:
        self._channel.consumers.pop(self.tag, None)
        if self._connection.tells_cancel:
            self._channel.reply(60, 30, "sb", (self.tag, True))


class Channel(Sender):
    """State of one open channel."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.entities = connection.entities
        self.is_flowing = True  #: the peer takes deliveries
        self.is_closing = False  #: we closed it and wait for the peer to say that it knows
        self.consumers: dict[str, ChannelConsumer] = {}
        self.unacked: dict[int, tuple[MessageQueue, ChannelConsumer | None, Message]] = {}
        self.last_tag = 0
        self.consumer_prefetch = 0  #: for consumers to come, each
        self.prefetch = 0  #: for all of the channel together
        self.confirms = False
        self._published = 0
        self._confirmed = 0
        self._last_queue = ""
        self._made_tags = 0
        self._routes: dict[bytes, _Route] = {}

    # -- publishing ----------------------------------------------------------------------------------------------

    def publish(self, payload: bytes, properties: bytes, body: bytes | None) -> None:
        """basic.publish with its content; a ``body`` of None was over the bound."""
        route = self._routes.get(payload)
        if route is None or route.version != self.entities.version:
            route = self._find_route(payload)
        if body is None:
            raise AmqpError(406, "message size is larger than configured max size")
        if self.confirms:
            self._published += 1
        accepted = True
        if route.queues:
            message = Message(route.route, properties, body)
            for queue in route.queues:
                if not queue.put(message):
                    accepted = False
        elif route.mandatory:
            self._return(312, "NO_ROUTE", route.route, properties, body)
        if not accepted and self.confirms:
            self._refuse_last()
        if self.entities.gauge.is_over:
            self.connection.hold_back()

    def _find_route(self, payload: bytes) -> _Route:
        if len(payload) < 9:
            raise AmqpError(502, "the arguments of basic.publish are cut short")
        exchange, key = split_route(payload[6:-1])
        if payload[-1] & 2:
            raise AmqpError(540, "immediate=true")
        queues = self.entities.route(exchange, key)
        if self.connection.tells_inbox_end:
            for queue in queues:
                if queue.settings.exclusive:
                    queue.senders.add(self)
        if len(self._routes) >= 4096:
            self._routes.clear()
        route = _Route(self.entities.version, queues, bool(payload[-1] & 1), payload[6:-1])
        self._routes[payload] = route
        return route

    def inbox_ended(self, name: str) -> None:
        if not self.is_closing:
            self._return(312, "INBOX_ENDED", route_of("", name), _NO_PROPERTIES, b"")

    def _return(self, code: int, text: str, route: bytes, properties: bytes, body: bytes) -> None:
        method = BASIC_RETURN + code.to_bytes(2, "big") + short_string(text) + route
        self._send_content(method, properties, body)

    def send_confirms(self) -> None:
        """Confirm what was published since the last time, in one frame."""
        if self._published > self._confirmed:
            self._confirmed = self._published
            self._send(ack_frame(self.number, self._published, multiple=True))

    def _refuse_last(self) -> None:
        before = self._published - 1
        if before > self._confirmed:
            self._send(ack_frame(self.number, before, multiple=True))
        self._confirmed = self._published
        self._send(method_frame(self.number, BASIC_NACK, "Lbb", (self._published, False, False)))

    # -- acknowledging -------------------------------------------------------------------------------------------

    def settle(self, tag: int, *, multiple: bool, requeue: bool | None) -> None:
        """The peer is done with deliveries; ``requeue`` None means acknowledged, False dropped."""
        unacked = self.unacked
        if multiple:
            if tag > self.last_tag:
                raise AmqpError(406, f"unknown delivery tag {tag}")
            tags = list(takewhile(lambda other: other <= tag, unacked)) if tag else list(unacked)
        elif tag in unacked:
            tags = [tag]
        else:
            raise AmqpError(406, f"unknown delivery tag {tag}")
        self._release([unacked.pop(one) for one in tags], requeue=requeue is True)

    def _release(self, entries: list[tuple[MessageQueue, ChannelConsumer | None, Message]], *, requeue: bool) -> None:
        back: dict[MessageQueue, list[Message]] = {}
        ready: dict[MessageQueue, None] = {}
        for queue, consumer, message in entries:
            if consumer is not None:
                consumer.in_flight -= 1
                ready[queue] = None
            if requeue:
                back.setdefault(queue, []).append(message)
        for queue, messages in back.items():
            queue.requeue(messages)
        if self.prefetch:
            self.dispatch()
        for queue in ready:
            queue.dispatch()

    def dispatch(self) -> None:
        """Something became free: let the queues of this channel's consumers go on."""
        for consumer in list(self.consumers.values()):
            consumer.queue.dispatch()

    def end(self) -> dict[MessageQueue, list[Message]]:
        """Take everything down; returns what each queue that was read here is to get back, in order.

        Nothing is handed to other consumers before that: what comes back is older than what waits.
        """
        back: dict[MessageQueue, list[Message]] = {}
        consumers, self.consumers = self.consumers, {}
        for consumer in consumers.values():
            back[consumer.queue] = []
        for queue, _, message in self.unacked.values():
            back.setdefault(queue, []).append(message)
        self.unacked.clear()
        self._routes.clear()
        for consumer in consumers.values():
            self._leave(consumer)
        return back

    def _leave(self, consumer: ChannelConsumer) -> None:
        queue = consumer.queue
        if not queue.is_deleted:
            self.connection.touch(queue)
            if queue.remove_consumer(consumer):
                self.entities.delete_queue(queue)

    # -- methods -------------------------------------------------------------------------------------------------

    def take(self, payload: bytes) -> None:
        """Any method but basic.publish.

        Raises:
            AmqpError: the channel or the connection is to be closed for it.
        """
        method = payload[:4]
        if method == BASIC_ACK and len(payload) == 13:
            self.settle(int.from_bytes(payload[4:12], "big"), multiple=bool(payload[12] & 1), requeue=None)
            return
        try:
            layout, function = METHODS[method]
        except KeyError:
            class_id, method_id = int.from_bytes(method[:2], "big"), int.from_bytes(method[2:], "big")
            raise AmqpError(540, f"method {method_id} of class {class_id} is not served here") from None
        function(self, *decode(layout, payload))

    def flow(self, active: bool) -> None:
        self.is_flowing = active
        self.reply(20, 21, "b", (active,))
        self.dispatch()

    def exchange_declare(
        self, _ticket: int, name: str, kind: str, passive: bool, durable: bool, auto_delete: bool, internal: bool,
        nowait: bool, _arguments: dict[str, Any],
    ) -> None:  # fmt: skip
        if passive:
            if name:
                self.entities.exchange(name)
        elif internal:
            raise AmqpError(540, "internal exchanges are not served here")
        else:
            self.entities.declare_exchange(name, kind, durable=durable, auto_delete=auto_delete)
        if not nowait:
            self.reply(40, 11)

    def exchange_delete(self, _ticket: int, name: str, if_unused: bool, nowait: bool) -> None:
        self.entities.delete_exchange(name, if_unused=if_unused)
        if not nowait:
            self.reply(40, 21)

    def queue_declare(
        self, _ticket: int, name: str, passive: bool, durable: bool, exclusive: bool, auto_delete: bool,
        nowait: bool, arguments: dict[str, Any],
    ) -> None:  # fmt: skip
        if passive:
            queue = self._queue(name)
        else:
            short_string(name)
            if name.startswith("amq.") and name not in self.entities.queues:
                raise AmqpError(403, f"queue name '{name}' contains reserved prefix 'amq.*'")
            settings = queue_settings(durable, exclusive, auto_delete, arguments)
            queue = self.entities.declare_queue(name, settings, self.connection)
        self._last_queue = queue.name
        self.connection.touch(queue)
        if not nowait:
            self.reply(50, 11, "sll", (queue.name, len(queue.messages), len(queue.consumers)))

    def queue_bind(
        self, _ticket: int, name: str, exchange: str, key: str, nowait: bool, _arguments: dict[str, Any]
    ) -> None:
        queue = self._queue(name)
        self.entities.bind(queue, exchange, queue.name if not name and not key else key)
        if not nowait:
            self.reply(50, 21)

    def queue_unbind(self, _ticket: int, name: str, exchange: str, key: str, _arguments: dict[str, Any]) -> None:
        self.entities.unbind(self._queue(name), exchange, key)
        self.reply(50, 51)

    def queue_purge(self, _ticket: int, name: str, nowait: bool) -> None:
        count = self._queue(name).purge()
        if not nowait:
            self.reply(50, 31, "l", (count,))

    def queue_delete(self, _ticket: int, name: str, if_unused: bool, if_empty: bool, nowait: bool) -> None:
        count = 0
        if name in self.entities.queues or not name:
            queue = self._queue(name)
            if if_unused and queue.consumers:
                raise AmqpError(406, f"queue '{queue.name}' in vhost '/' in use")
            if if_empty and queue.messages:
                raise AmqpError(406, f"queue '{queue.name}' in vhost '/' not empty")
            count = self.entities.delete_queue(queue)
        if not nowait:
            self.reply(50, 41, "l", (count,))

    def basic_qos(self, size: int, count: int, is_global: bool) -> None:
        if size:
            raise AmqpError(540, "prefetch_size!=0")
        if is_global:
            self.prefetch = count
        else:
            self.consumer_prefetch = count
        self.reply(60, 11)
        self.dispatch()

    def basic_consume(
        self, _ticket: int, name: str, tag: str, no_local: bool, no_ack: bool, exclusive: bool, nowait: bool,
        arguments: dict[str, Any],
    ) -> None:  # fmt: skip
        queue = self._queue(name)
        if not tag:
            self._made_tags += 1
            tag = f"amq.ctag-{self.number}-{self._made_tags}"
        if tag in self.consumers:
            raise AmqpError(530, f"attempt to reuse consumer tag '{tag}'")
        consumer = ChannelConsumer(
            self, queue, tag, no_ack=no_ack, exclusive=exclusive, priority=consumer_priority(arguments)
        )
        queue.add_consumer(consumer)
        self.consumers[tag] = consumer
        self.connection.touch(queue)
        if not nowait:
            self.reply(60, 21, "s", (tag,))
        queue.dispatch()

    def basic_cancel(self, tag: str, nowait: bool) -> None:
        consumer = self.consumers.pop(tag, None)
        if consumer is not None:
            self._leave(consumer)
        if not nowait:
            self.reply(60, 31, "s", (tag,))
        if consumer is not None:
            consumer.queue.dispatch()

    def basic_get(self, _ticket: int, name: str, no_ack: bool) -> None:
        queue = self._queue(name)
        self.connection.touch(queue)
        message = queue.take()
        if message is None:
            self.reply(60, 72, "s", ("",))
            return
        self.last_tag += 1
        if not no_ack:
            self.unacked[self.last_tag] = (queue, None, message)
        method = b"".join((
            BASIC_GET_OK,
            self.last_tag.to_bytes(8, "big"),
            b"\x01" if message.redelivered else b"\x00",
            message.route,
            len(queue.messages).to_bytes(4, "big"),
        ))  # fmt: skip
        self._send_content(method, message.properties, message.body)

    def basic_ack(self, tag: int, multiple: bool) -> None:
        self.settle(tag, multiple=multiple, requeue=None)

    def basic_nack(self, tag: int, multiple: bool, requeue: bool) -> None:
        self.settle(tag, multiple=multiple, requeue=requeue)

    def basic_reject(self, tag: int, requeue: bool) -> None:
        self.settle(tag, multiple=False, requeue=requeue)

    def basic_recover(self, requeue: bool) -> None:
        self.basic_recover_async(requeue)
        self.reply(60, 111)

    def basic_recover_async(self, requeue: bool) -> None:
        if not requeue:
            raise AmqpError(540, "recover without requeue is not served here")
        entries = list(self.unacked.values())
        self.unacked.clear()
        self._release(entries, requeue=True)

    def confirm_select(self, nowait: bool) -> None:
        self.confirms = True
        if not nowait:
            self.reply(85, 11)

    # -- sending -------------------------------------------------------------------------------------------------

    def reply(self, class_id: int, method_id: int, layout: str = "", values: tuple[Any, ...] = ()) -> None:
        """Send a method without content."""
        self._send(method_frame(self.number, signature(class_id, method_id), layout, values))

    def _send(self, frame: bytes) -> None:
        connection = self.connection
        connection.pieces.append(frame)
        connection.waiting += len(frame)
        connection.mark()

    def _send_content(self, method: bytes, properties: bytes, body: bytes) -> None:
        connection = self.connection
        append_content(connection.pieces, self.number, method, properties, body, connection.frame_max)
        connection.waiting += len(body) + len(properties) + _FRAMING
        connection.mark()

    def _queue(self, name: str) -> MessageQueue:
        """The queue of that name; no name means the one declared last on this channel."""
        if not name and not self._last_queue:
            raise AmqpError(404, "no previously declared queue")
        return self.entities.queue(name or self._last_queue, self.connection)


#: signature -> format of the arguments, function; basic.publish and the channel's own life are elsewhere
METHODS: dict[bytes, tuple[str, Callable[..., None]]] = {
    signature(20, 20): ("b", Channel.flow),
    signature(40, 10): ("BssbbbbbF", Channel.exchange_declare),
    signature(40, 20): ("Bsbb", Channel.exchange_delete),
    signature(50, 10): ("BsbbbbbF", Channel.queue_declare),
    signature(50, 20): ("BsssbF", Channel.queue_bind),
    signature(50, 30): ("Bsb", Channel.queue_purge),
    signature(50, 40): ("Bsbbb", Channel.queue_delete),
    signature(50, 50): ("BsssF", Channel.queue_unbind),
    signature(60, 10): ("lBb", Channel.basic_qos),
    signature(60, 20): ("BssbbbbF", Channel.basic_consume),
    signature(60, 30): ("sb", Channel.basic_cancel),
    signature(60, 70): ("Bsb", Channel.basic_get),
    signature(60, 80): ("Lb", Channel.basic_ack),
    signature(60, 90): ("Lb", Channel.basic_reject),
    signature(60, 100): ("b", Channel.basic_recover_async),
    signature(60, 110): ("b", Channel.basic_recover),
    signature(60, 120): ("Lbb", Channel.basic_nack),
    signature(85, 10): ("b", Channel.confirm_select),
}
