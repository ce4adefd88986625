"""Queues of the embedded broker: messages that wait, consumers that take turns. Nothing here knows sockets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from futurebroker.broker_adapters.frames import AmqpError


class Message:
    """A message as it was published; never changed, so that several queues may hold it."""

    __slots__ = ("route", "properties", "body", "redelivered")

    def __init__(self, route: bytes, properties: bytes, body: bytes, redelivered: bool = False) -> None:
        self.route = route  #: exchange and routing key, encoded as `frames.route_of` does
        self.properties = properties
        self.body = body
        self.redelivered = redelivered

    def again(self) -> Message:
        """The same message, marked as delivered before."""
        return self if self.redelivered else Message(self.route, self.properties, self.body, True)


class Consumer(ABC):
    """One reader of one queue."""

    def __init__(self, queue: MessageQueue, tag: str, *, no_ack: bool, exclusive: bool, priority: int) -> None:
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.priority = priority

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it takes a message now; who makes it ready again calls `MessageQueue.dispatch`."""

    @abstractmethod
    def deliver(self, message: Message) -> None:
        """Take ``message``; only called when ready."""

    @abstractmethod
    def cancelled(self) -> None:
        """The queue is gone, and the consumer with it."""


class Sender(ABC):
    """Someone who sent to an exclusive queue and wants to know when it ends."""

    @abstractmethod
    def inbox_ended(self, name: str) -> None:
        """The exclusive queue ``name`` is gone."""


class MemoryGauge:
    """Bytes that wait in all queues of a broker."""

    __slots__ = ("used", "limit", "is_over")

    def __init__(self, limit: int) -> None:
        self.used = 0
        self.limit = limit
        self.is_over = False  #: turned on over the limit; the broker turns it off at 80 % and tells publishers


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What a redeclaration must repeat; `Entities` looks at ``exclusive`` by itself."""

    durable: bool = False
    exclusive: bool = False
    auto_delete: bool = False
    expires: float | None = None  #: seconds without consumers and use after which it is deleted
    single_active_consumer: bool = False
    max_length: int | None = None
    max_bytes: int | None = None
    reject_publish: bool = False  #: a full queue refuses new messages; else it drops its oldest

    def difference(self, asked: QueueSettings) -> str | None:
        """Which argument of ``asked`` differs, said as RabbitMQ says it; None when they are equal."""
        for name, label in _LABELS:
            have, want = getattr(self, name), getattr(asked, name)
            if have != want:
                return f"inequivalent arg '{label}' for {{queue}}: received {_said(want)} but current is {_said(have)}"
        return None


_LABELS = (
    ("durable", "durable"),
    ("auto_delete", "auto_delete"),
    ("expires", "x-expires"),
    ("single_active_consumer", "x-single-active-consumer"),
    ("max_length", "x-max-length"),
    ("max_bytes", "x-max-length-bytes"),
    ("reject_publish", "x-overflow"),
)


def _said(value: object) -> str:
    return "none" if value is None else f"'{str(value).lower()}'"


class MessageQueue:
    """Messages in order, handed to its consumers in turn as far as they are ready."""

    __slots__ = (
        "name",
        "settings",
        "owner",
        "messages",
        "consumers",
        "senders",
        "bytes",
        "last_used",
        "is_deleted",
        "_gauge",
        "_bounded",
    )

    def __init__(self, name: str, settings: QueueSettings, owner: object | None, gauge: MemoryGauge) -> None:
        self.name = name
        self.settings = settings
        self.owner = owner  #: the connection an exclusive queue belongs to
        self.messages: deque[Message] = deque()
        self.consumers: list[Consumer] = []  #: highest priority first; among equals the next in turn first
        self.senders: set[Sender] = set()
        self.bytes = 0
        self.last_used = 0.0
        self.is_deleted = False
        self._gauge = gauge
        self._bounded = settings.max_length is not None or settings.max_bytes is not None

    def put(self, message: Message) -> bool:
        """Hand ``message`` on, or keep it; False when the queue is full and refuses it."""
        if not self.messages:
            consumer = self._next_consumer()
            if consumer is not None:
                consumer.deliver(message)
                return True
        if self._bounded and not self._make_room(len(message.body)):
            return False
        self.messages.append(message)
        self._count(len(message.body))
        return True

    def dispatch(self) -> None:
        """Hand out what waits, as far as consumers are ready."""
        messages = self.messages
        while messages:
            consumer = self._next_consumer()
            if consumer is None:
                return
            message = messages.popleft()
            self._count(-len(message.body))
            consumer.deliver(message)

    def take(self) -> Message | None:
        """The oldest message, for basic.get."""
        if not self.messages:
            return None
        message = self.messages.popleft()
        self._count(-len(message.body))
        return message

    def requeue(self, messages: Iterable[Message]) -> None:
        """Put ``messages``, in their former order, back to the front."""
        if self.is_deleted:
            return
        for message in reversed(list(messages)):
            self.messages.appendleft(message.again())
            self._count(len(message.body))
        self.dispatch()

    def purge(self) -> int:
        """Drop what waits; returns how many messages that were."""
        count = len(self.messages)
        self.messages.clear()
        self._count(-self.bytes)
        return count

    def add_consumer(self, consumer: Consumer) -> None:
        """Let ``consumer`` take part.

        Raises:
            AmqpError: someone reads the queue exclusively, or ``consumer`` wants to and is not alone.
        """
        if self.consumers and (consumer.exclusive or self.consumers[0].exclusive):
            raise AmqpError(403, f"queue '{self.name}' in vhost '/' in exclusive use")
        if self.settings.single_active_consumer:
            place = len(self.consumers)  # the active one stays the first until it goes
        else:
            place = sum(other.priority >= consumer.priority for other in self.consumers)
        self.consumers.insert(place, consumer)

    def remove_consumer(self, consumer: Consumer) -> bool:
        """Take ``consumer`` out; True when the queue is to be deleted with its last consumer."""
        self.consumers.remove(consumer)
        return self.settings.auto_delete and not self.consumers

    def _next_consumer(self) -> Consumer | None:
        consumers = self.consumers
        if not consumers:
            return None
        first = consumers[0]
        if len(consumers) == 1 or self.settings.single_active_consumer:
            return first if first.is_ready() else None
        for place, consumer in enumerate(consumers):
            if consumer.is_ready():
                # it goes behind its equals, so that they take turns
                del consumers[place]
                end = sum(other.priority >= consumer.priority for other in consumers)
                consumers.insert(end, consumer)
                return consumer
        return None

    def _make_room(self, size: int) -> bool:
        settings = self.settings
        while (settings.max_length is not None and len(self.messages) + 1 > settings.max_length) or (
            settings.max_bytes is not None and self.bytes + size > settings.max_bytes
        ):
            if settings.reject_publish:
                return False
            if self.take() is None:
                return True  # larger than the whole bound: RabbitMQ drops it at once, too
        return True

    def _count(self, size: int) -> None:
        self.bytes += size
        gauge = self._gauge
        gauge.used += size
        if gauge.used > gauge.limit:
            gauge.is_over = True
