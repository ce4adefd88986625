"""Links inside one process: `memory://name` is a broker of that name, made by whoever opens it first.

It behaves as the embedded AMQP broker does: an inbox ends with its link and its senders are told, a command queue
keeps what nobody has acknowledged. Links may live on different threads; a delivery costs one append, and a burst of
them wakes the owner once.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile

from futurebroker.exceptions import BrokerRefusedError, ConfigError, MessageTooLargeError
from futurebroker.transport.base import Capabilities, LinkEvents, Queue, QueueKind, Socketless

MAX_MESSAGE = 16 * 1024 * 1024
#: deliveries of a command queue that its reader may hold unacknowledged
_PREFETCH = 300

Note = Callable[[LinkEvents], None]


#: what is known here; the rest is for brokers that keep messages, or tokens
_KINDS = frozenset((QueueKind.INBOX, QueueKind.COMMAND))


class _MemoryQueue:
    """A queue of one broker; everything here is touched only under the broker's lock."""

    __slots__ = ("name", "kind", "messages", "readers", "senders")

    def __init__(self, name: str, kind: QueueKind) -> None:
        self.name = name
        self.kind = kind
        self.messages: deque[bytes] = deque()  #: of a command queue, what its reader does not hold
        self.readers: list[MemoryLink] = []  #: the first one is active
        self.senders: set[MemoryLink] = set()  #: who is told when an inbox ends


class _MemoryBroker:
    """The queues of one name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.queues: dict[str, _MemoryQueue] = {}
        self.links: set[MemoryLink] = set()


_brokers: dict[str, _MemoryBroker] = {}
_brokers_lock = threading.Lock()


def open_link(url: str, queues: Sequence[Queue], *, secret: bytes, timeout: float, name: str) -> MemoryLink:
    """Open a link to the broker ``url`` names; see `transport.base.Opener`. It never waits and needs no secret.

    A broker ends, with what its command queues hold, when its last link is closed.
    """
    del secret, timeout, name
    scheme, _, broker_name = url.partition("://")
    if scheme != "memory" or not broker_name:
        raise ConfigError(f"{url!r} is no address of a broker in this process; one looks like memory://name")
    with _brokers_lock:
        broker = _brokers.setdefault(broker_name, _MemoryBroker(broker_name))
        with broker.lock:
            return MemoryLink(broker, queues)


class MemoryLink(Socketless):
    """A `Link` to a broker in this process; see `transport.base` for what its methods promise."""

    def __init__(self, broker: _MemoryBroker, queues: Sequence[Queue]) -> None:
        self.capabilities = Capabilities(
            durable=False, confirms=False, mandatory=True, peer_death=True, max_message=MAX_MESSAGE
        )
        self._broker = broker
        self._events: LinkEvents | None = None
        self._wake: Callable[[Callable[[], None]], object] | None = None
        self._is_woken = False
        self._is_closed = False
        self._arrived: deque[tuple[str, bytes, int]] = deque()
        self._notes: deque[Note] = deque()
        self._targets: dict[str, _MemoryQueue] = {}
        self._queues: dict[str, _MemoryQueue] = {}
        #: delivered and not acknowledged, by command queue and tag
        self._unacked: dict[str, dict[int, bytes]] = {}
        self._last_tag = 0
        queues = [wanted for wanted in queues if wanted.kind in _KINDS]
        for wanted in queues:
            held = broker.queues.get(wanted.name)
            if held is not None and held.kind is not wanted.kind:
                raise BrokerRefusedError(f"memory://{broker.name}", f"{wanted.name} is a {held.kind.value} queue")
            if held is not None and held.kind is QueueKind.INBOX:
                raise BrokerRefusedError(f"memory://{broker.name}", f"the inbox {wanted.name} belongs to another link")
        broker.links.add(self)
        for wanted in queues:
            queue = broker.queues.setdefault(wanted.name, _MemoryQueue(wanted.name, wanted.kind))
            queue.readers.append(self)
            self._queues[queue.name] = queue
            if queue.kind is QueueKind.COMMAND:
                self._unacked[queue.name] = {}
                self._pull(queue)

    # -- Link ------------------------------------------------------------------------------------------------------

    def start(self, events: LinkEvents, wake: Callable[[Callable[[], None]], object]) -> None:
        with self._broker.lock:
            self._events = events
            self._wake = wake
            if self._arrived or self._notes:
                self._wake_owner()

    def send(self, destination: str, body: bytes, *, durable: bool = False, mandatory: bool = False) -> None:
        if len(body) > MAX_MESSAGE:
            raise MessageTooLargeError("a message", len(body), MAX_MESSAGE)
        with self._broker.lock:
            if self._is_closed:
                return
            queue = self._targets.get(destination) or self._find(destination)
            if queue is None:
                if mandatory:
                    self._note(lambda events: events.returned(destination))
            elif queue.kind is QueueKind.INBOX:
                queue.readers[0]._deliver(destination, body, 0)
            else:
                queue.messages.append(body)
                if queue.readers:
                    queue.readers[0]._pull(queue)

    def flush(self) -> None:
        """Nothing waits: what is sent is with its reader at once."""

    def begin_confirms(self) -> None:
        """Nothing: nobody confirms."""

    def ack(self, tag: int) -> None:
        with self._broker.lock:
            for name, unacked in self._unacked.items():
                if tag in unacked:
                    for one in list(takewhile(lambda other: other <= tag, unacked)):
                        del unacked[one]
                    self._pull(self._queues[name])
                    return

    def close(self) -> None:
        with _brokers_lock, self._broker.lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._leave()
            if not self._broker.links:
                _brokers.pop(self._broker.name, None)
        if self._events is not None:
            self._events.disconnected(None)

    # -- inside, under the broker's lock ----------------------------------------------------------------------------

    def _find(self, destination: str) -> _MemoryQueue | None:
        queue = self._broker.queues.get(destination)
        if queue is not None:
            self._targets[destination] = queue
            queue.senders.add(self)
        return queue

    def _deliver(self, queue: str, body: bytes, tag: int) -> None:
        self._arrived.append((queue, body, tag))
        if not self._is_woken:
            self._wake_owner()

    def _pull(self, queue: _MemoryQueue) -> None:
        """Take from a command queue what may be held unacknowledged, if this link is its active reader."""
        unacked = self._unacked[queue.name]
        while queue.messages and queue.readers[0] is self and len(unacked) < _PREFETCH:
            self._last_tag += 1
            unacked[self._last_tag] = body = queue.messages.popleft()
            self._deliver(queue.name, body, self._last_tag)

    def _note(self, note: Note) -> None:
        self._notes.append(note)
        if not self._is_woken:
            self._wake_owner()

    def _wake_owner(self) -> None:
        if self._wake is None:
            return
        self._is_woken = True
        # a loop that was closed before its link: whoever sends here must not fail for it
        with contextlib.suppress(RuntimeError):
            self._wake(self._hand_over)

    def _leave(self) -> None:
        for queue in self._targets.values():
            queue.senders.discard(self)
        for queue in self._queues.values():
            queue.readers.remove(self)
            if queue.kind is QueueKind.COMMAND:
                queue.messages.extendleft(reversed(self._unacked[queue.name].values()))
                if queue.readers:
                    queue.readers[0]._pull(queue)
                continue
            del self._broker.queues[queue.name]
            for sender in queue.senders:
                sender._inbox_ended(queue.name)
        self._arrived.clear()
        self._unacked.clear()
        self._broker.links.discard(self)

    def _inbox_ended(self, name: str) -> None:
        del self._targets[name]
        self._note(lambda events: events.returned(name))

    # -- on the owner's thread --------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Tell the owner what arrived, at most what is there now: what it sends itself waits for the next turn."""
        with self._broker.lock:
            # before anything is taken: what arrives from here on wakes again
            self._is_woken = False
            arrived, self._arrived = self._arrived, deque()
            notes, self._notes = self._notes, deque()
        events = self._events
        if events is None:
            return
        received = events.received
        for queue, body, tag in arrived:
            if self._is_closed:
                return
            received(queue, body, tag)
        for note in notes:
            if not self._is_closed:
                note(events)
