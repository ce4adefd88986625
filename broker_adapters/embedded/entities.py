"""Exchanges, queues and bindings of one embedded broker, and the way a message takes through them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from futurebroker.broker_adapters.embedded.queues import MemoryGauge, MessageQueue, QueueSettings
from futurebroker.broker_adapters.frames import AmqpError

EXCHANGE_TYPES = ("direct", "fanout", "topic")


@dataclass(slots=True)
class Exchange:
    """An exchange with its bindings."""

    name: str
    type: str
    durable: bool = False
    auto_delete: bool = False
    #: binding key -> queues, in the order they were bound
    bindings: dict[str, list[MessageQueue]] = field(default_factory=dict)

    def route(self, key: str) -> list[MessageQueue]:
        """The queues a message with routing key ``key`` goes to, each once."""
        if self.type == "direct":
            return list(self.bindings.get(key, ()))
        if self.type == "fanout":
            chosen: Iterable[list[MessageQueue]] = self.bindings.values()
        else:
            words = key.split(".")
            chosen = [queues for pattern, queues in self.bindings.items() if topic_matches(pattern.split("."), words)]
        return list(dict.fromkeys(queue for queues in chosen for queue in queues))


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """Whether ``words`` fit ``pattern``, where ``*`` is one word and ``#`` any number of them."""
    # one row of the classic table, as long as the words: a pattern full of # stays cheap
    reach = [True] + [False] * len(words)
    for part in pattern:
        following = [part == "#" and reach[0]]
        for at, word in enumerate(words):
            if part == "#":
                following.append(following[at] or reach[at + 1])
            else:
                following.append(reach[at] and part in ("*", word))
        reach = following
    return reach[-1]


class Entities:
    """All exchanges and queues; `version` grows with each change, so that routes can be kept until then."""

    def __init__(self, gauge: MemoryGauge, on_deleted: Callable[[MessageQueue], None]) -> None:
        self.gauge = gauge
        self.version = 0
        self.queues: dict[str, MessageQueue] = {}
        self.exchanges = {f"amq.{kind}": Exchange(f"amq.{kind}", kind, durable=True) for kind in EXCHANGE_TYPES}
        self._on_deleted = on_deleted

    # -- queues --------------------------------------------------------------------------------------------------

    def queue(self, name: str, connection: object | None) -> MessageQueue:
        """The queue ``name``, for use by ``connection``.

        Raises:
            AmqpError: there is none, or it is exclusive to another connection.
        """
        queue = self.queues.get(name)
        if queue is None:
            raise AmqpError(404, f"no queue '{name}' in vhost '/'")
        if queue.settings.exclusive and queue.owner is not connection:
            raise AmqpError(405, f"cannot obtain exclusive access to locked queue '{name}' in vhost '/'")
        return queue

    def declare_queue(self, name: str, settings: QueueSettings, connection: object | None) -> MessageQueue:
        """Make the queue ``name``, or find it with equal settings; an empty name gets one."""
        if name in self.queues:
            queue = self.queue(name, connection)
            if queue.settings.exclusive is not settings.exclusive:
                raise AmqpError(405, f"the exclusive property of queue '{name}' in vhost '/' is not what was declared")
            difference = queue.settings.difference(settings)
            if difference is not None:
                raise AmqpError(406, difference.format(queue=f"queue '{name}' in vhost '/'"))
            return queue
        name = name or f"amq.gen-{secrets.token_urlsafe(16)}"
        queue = MessageQueue(name, settings, connection if settings.exclusive else None, self.gauge)
        self.queues[name] = queue
        self.version += 1
        return queue

    def delete_queue(self, queue: MessageQueue) -> int:
        """Delete ``queue`` with its bindings; returns how many messages it held."""
        if queue.is_deleted:
            return 0
        queue.is_deleted = True
        self.version += 1
        del self.queues[queue.name]
        for exchange in list(self.exchanges.values()):
            for key in [key for key, queues in exchange.bindings.items() if queue in queues]:
                self._remove_binding(exchange, queue, key)
        count = queue.purge()
        consumers, queue.consumers = queue.consumers, []
        for consumer in consumers:
            consumer.cancelled()
        self._on_deleted(queue)
        return count

    # -- exchanges -----------------------------------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        """The exchange ``name``, which is not the default one.

        Raises:
            AmqpError: there is none.
        """
        try:
            return self.exchanges[name]
        except KeyError:
            raise AmqpError(404, f"no exchange '{name}' in vhost '/'") from None

    def declare_exchange(self, name: str, kind: str, *, durable: bool, auto_delete: bool) -> None:
        """Make the exchange ``name``, or find it with equal settings."""
        exchange = self.exchanges.get(name)
        if exchange is None:
            if kind not in EXCHANGE_TYPES:
                raise AmqpError(540, f"exchange type '{kind}' is not served here")
            if name.startswith("amq.") or not name:
                raise AmqpError(403, f"exchange name '{name}' contains reserved prefix 'amq.*'")
            self.exchanges[name] = Exchange(name, kind, durable, auto_delete)
            self.version += 1
            return
        for label, have, want in (
            ("type", exchange.type, kind),
            ("durable", exchange.durable, durable),
            ("auto_delete", exchange.auto_delete, auto_delete),
        ):
            if have != want:
                received = f"received '{str(want).lower()}' but current is '{str(have).lower()}'"
                raise AmqpError(406, f"inequivalent arg '{label}' for exchange '{name}' in vhost '/': {received}")

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Delete the exchange ``name`` if it is there."""
        if not name or name.startswith("amq."):
            raise AmqpError(403, f"exchange '{name}' in vhost '/' cannot be deleted")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise AmqpError(406, f"exchange '{name}' in vhost '/' in use")
        del self.exchanges[name]
        self.version += 1

    # -- bindings ------------------------------------------------------------------------------------------------

    def bind(self, queue: MessageQueue, exchange_name: str, key: str) -> None:
        """Let messages of the exchange with the binding key ``key`` reach ``queue``."""
        if not exchange_name:
            raise AmqpError(403, "operation not permitted on the default exchange")
        queues = self.exchange(exchange_name).bindings.setdefault(key, [])
        if queue not in queues:
            queues.append(queue)
            self.version += 1

    def unbind(self, queue: MessageQueue, exchange_name: str, key: str) -> None:
        """Undo `bind`; nothing happens where there is no such binding."""
        if not exchange_name:
            raise AmqpError(403, "operation not permitted on the default exchange")
        exchange = self.exchange(exchange_name)
        if queue in exchange.bindings.get(key, ()):
            self._remove_binding(exchange, queue, key)

    def route(self, exchange_name: str, key: str) -> list[MessageQueue]:
        """The queues a message goes to.

        Raises:
            AmqpError: there is no such exchange.
        """
        if not exchange_name:
            queue = self.queues.get(key)
            return [] if queue is None else [queue]
        return self.exchange(exchange_name).route(key)

    def _remove_binding(self, exchange: Exchange, queue: MessageQueue, key: str) -> None:
        queues = exchange.bindings[key]
        queues.remove(queue)
        self.version += 1
        if not queues:
            del exchange.bindings[key]
            if exchange.auto_delete and not exchange.bindings:
                self.exchanges.pop(exchange.name, None)
