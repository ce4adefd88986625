"""The link of the process that hosts the embedded broker: the same queues, no socket in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from futurebroker.broker_adapters.embedded.entities import Entities
from futurebroker.broker_adapters.embedded.queues import Consumer, Message, MessageQueue, QueueSettings, Sender
from futurebroker.broker_adapters.frames import (
    DURABLE_PROPERTIES,
    MAX_MESSAGE,
    TRANSIENT_PROPERTIES,
    AmqpError,
    route_of,
)
from futurebroker.broker_adapters.topology import COMMAND_PREFETCH
from futurebroker.exceptions import BrokerRefusedError, ClusterConnectionError, MessageTooLargeError
from futurebroker.transport.base import Capabilities, LinkEvents, Queue, QueueKind, Socketless

#: deliveries that may wait for the owner's next turn; more stay in their queues
_WAITING_MAX = 10_000

#: what `amqp_link` declares over a socket must be equal to these
SETTINGS = {
    QueueKind.INBOX: QueueSettings(exclusive=True, auto_delete=True),
    QueueKind.COMMAND: QueueSettings(durable=True, single_active_consumer=True),
}


class _LocalConsumer(Consumer):
    def __init__(self, link: LocalLink, queue: MessageQueue, kind: QueueKind) -> None:
        super().__init__(queue, "local", no_ack=kind is QueueKind.INBOX, exclusive=False, priority=0)
        self._link = link
        self.unacked: dict[int, Message] = {}

    def is_ready(self) -> bool:
        if self.no_ack:
            return len(self._link.waiting) < _WAITING_MAX
        return len(self.unacked) < COMMAND_PREFETCH

    def deliver(self, message: Message) -> None:
        tag = 0
        if not self.no_ack:
            tag = self._link.next_tag()
            self.unacked[tag] = message
        self._link.deliver(self.queue.name, message.body, tag)

    def cancelled(self) -> None:
        self._link.lost(ClusterConnectionError(f"the queue {self.queue.name} was deleted by another process"))


class LocalLink(Socketless, Sender):
    """A `Link` on the embedded broker's own thread; made by `EmbeddedBroker.local_link`."""

    def __init__(
        self,
        entities: Entities,
        queues: Sequence[Queue],
        flush: Callable[[], None],
        on_closed: Callable[[LocalLink], None],
    ) -> None:
        self.capabilities = Capabilities(
            durable=False, confirms=True, mandatory=True, peer_death=True, max_message=MAX_MESSAGE, bulk=True
        )
        self.waiting: deque[tuple[str, bytes, int]] = deque()
        self._entities = entities
        self._flush = flush
        self._on_closed = on_closed
        self._events: LinkEvents | None = None
        self._wake: Callable[[Callable[[], None]], object] | None = None
        self._is_woken = False
        self._is_closed = False
        self._is_blocked = False
        self._notes: deque[Callable[[LinkEvents], None]] = deque()
        self._last_tag = 0
        self._known: dict[str, MessageQueue] = {}
        self._routes: dict[str, bytes] = {}
        self._consumers: list[_LocalConsumer] = []
        try:
            for wanted in queues:
                queue = entities.declare_queue(wanted.name, SETTINGS[wanted.kind], self)
                consumer = _LocalConsumer(self, queue, wanted.kind)
                queue.add_consumer(consumer)
                self._consumers.append(consumer)
                queue.dispatch()
        except AmqpError as error:
            self._take_down()
            raise BrokerRefusedError("the embedded broker", error.text) from None

    # -- Link ------------------------------------------------------------------------------------------------------

    def start(self, events: LinkEvents, wake: Callable[[Callable[[], None]], object]) -> None:
        self._events = events
        self._wake = wake
        if self.waiting or self._notes:
            self._wake_owner()

    def send(self, destination: str, body: bytes, *, durable: bool = False, mandatory: bool = False) -> None:
        if self._is_closed:
            return
        if len(body) > MAX_MESSAGE:
            raise MessageTooLargeError("a message", len(body), MAX_MESSAGE)
        queue = self._known.get(destination)
        if queue is None or queue.is_deleted:
            queue = self._find(destination)
            if queue is None:
                if mandatory:
                    self._note(lambda events: events.returned(destination))
                return
        queue.put(Message(self._routes[destination], DURABLE_PROPERTIES if durable else TRANSIENT_PROPERTIES, body))
        gauge = self._entities.gauge
        if gauge.is_over and not self._is_blocked:
            self._is_blocked = True
            self._note(lambda events: events.blocked(True))

    def flush(self) -> None:
        self._flush()

    def begin_confirms(self) -> None:
        """Nothing: what is sent is in its queue at once."""

    def ack(self, tag: int) -> None:
        for consumer in self._consumers:
            unacked = consumer.unacked
            if tag in unacked:
                while (first := next(iter(unacked))) < tag:
                    del unacked[first]
                del unacked[tag]
                consumer.queue.dispatch()
                return

    def close(self) -> None:
        if not self._is_closed:
            self._take_down()
            self._flush()
            if self._events is not None:
                self._events.disconnected(None)

    # -- called by the broker ----------------------------------------------------------------------------------------

    def deliver(self, queue: str, body: bytes, tag: int) -> None:
        """Keep a delivery for the owner's next turn."""
        self.waiting.append((queue, body, tag))
        if not self._is_woken:
            self._wake_owner()

    def begin_turn(self) -> None:
        """`take_turn` follows, so that the owner need not be woken for what comes until then."""
        self._is_woken = True

    def take_turn(self) -> None:
        """Tell the owner what waits, and let it answer at once."""
        if self._events is not None and (self.waiting or self._notes):
            self._events.turn(self._hand_over)
        else:
            self._is_woken = False

    def next_tag(self) -> int:
        """A delivery tag that was not used yet."""
        self._last_tag += 1
        return self._last_tag

    def inbox_ended(self, name: str) -> None:
        self._known.pop(name, None)
        self._routes.pop(name, None)
        self._note(lambda events: events.returned(name))

    def let_go(self) -> None:
        """So little waits in the queues again that sending may go on."""
        if self._is_blocked:
            self._is_blocked = False
            self._note(lambda events: events.blocked(False))

    def lost(self, error: Exception) -> None:
        """The broker ends, or a queue of this link was taken away."""
        if not self._is_closed:
            self._take_down()
            self._note(lambda events: events.disconnected(error))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _find(self, destination: str) -> MessageQueue | None:
        queue = self._entities.queues.get(destination)
        if queue is None:
            self._known.pop(destination, None)
            return None
        if queue.settings.exclusive:
            queue.senders.add(self)
        self._known[destination] = queue
        self._routes[destination] = route_of("", destination)
        return queue

    def _note(self, call: Callable[[LinkEvents], None]) -> None:
        self._notes.append(call)
        if not self._is_woken:
            self._wake_owner()

    def _wake_owner(self) -> None:
        if self._wake is not None:
            self._is_woken = True
            self._wake(self._hand_over)

    def _hand_over(self) -> None:
        """Tell the owner everything that happened since the last time, at most what waits now."""
        events = self._events
        self._is_woken = False
        if events is None:
            return
        received, waiting = events.received, self.waiting
        for _ in range(len(waiting)):
            if not waiting:
                break
            queue, body, tag = waiting.popleft()
            received(queue, body, tag)
        while self._notes:
            self._notes.popleft()(events)
        for consumer in self._consumers:
            if consumer.queue.messages:
                consumer.queue.dispatch()

    def _take_down(self) -> None:
        self._is_closed = True
        self.waiting.clear()
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            queue = consumer.queue
            if queue.is_deleted:
                continue
            queue.remove_consumer(consumer)
            if queue.owner is self:
                self._entities.delete_queue(queue)
            else:
                queue.requeue(consumer.unacked.values())
        for queue in self._known.values():
            queue.senders.discard(self)
        self._known.clear()
        self._on_closed(self)
