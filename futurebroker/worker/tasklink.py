"""The link of a client inside a task: a socket to the agent, which passes envelopes on over its own link to the broker.

Executors know neither the broker's address nor the cluster's secret. What they send is signed with a key of the
executor's, and signed anew by the agent, which sees to it that a client speaks in its own name only.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence

from futurebroker.exceptions import ClusterConnectionError, MessageTooLargeError
from futurebroker.transport.base import Capabilities, LinkEvents, Queue
from futurebroker.worker.packets import (
    Control,
    LinkBlocked,
    LinkBody,
    LinkOpened,
    LinkReturned,
    LinkSend,
    LinkWanted,
    encode_control,
    take_controls,
)

#: bytes read from the socket at a time
READ_BYTES = 256 * 1024
_FAR = 3600.0

#: hands a socket's other end to the agent, with what it is for
Offer = Callable[[LinkWanted, socket.socket], None]

#: by address, how executors in this process reach their agents
_executors: dict[str, Offer] = {}


def register(address: str, offer: Offer) -> None:
    """Links of ``address`` are those of an executor in this process."""
    _executors[address] = offer


def unregister(address: str) -> None:
    """The executor has ended."""
    _executors.pop(address, None)


def open_link(url: str, queues: Sequence[Queue], *, secret: bytes, timeout: float, name: str) -> TaskLink:
    """See `transport.base.Opener`; ``name`` is the client's."""
    del secret
    offer = _executors.get(url)
    if offer is None:
        raise ClusterConnectionError(f"{url} was an executor that has ended")
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            offer(LinkWanted(name), theirs)
        ours.settimeout(timeout)
        buffer = bytearray()
        records: list[Control] = []
        while not records:
            data = ours.recv(READ_BYTES)
            if not data:
                raise ClusterConnectionError("the worker is not connected to its broker now")
            buffer += data
            records = take_controls(buffer)
        ours.setblocking(False)
    except TimeoutError:
        ours.close()
        raise ClusterConnectionError(f"the worker did not open a way to its broker within {timeout:g} s") from None
    except BaseException:
        ours.close()
        raise
    opened, *early = records
    assert isinstance(opened, LinkOpened)
    return TaskLink(ours, opened, queues[0].name, buffer, early)


class TaskLink:
    """A `Link`; see the top of this file."""

    def __init__(
        self, sock: socket.socket, opened: LinkOpened, queue: str, buffer: bytearray, early: Sequence[object]
    ) -> None:
        self.capabilities = Capabilities(
            durable=False,
            confirms=False,
            mandatory=opened.mandatory,
            peer_death=opened.peer_death,
            max_message=opened.max_message,
            inbox=opened.inbox,
        )
        self._socket = sock
        self._queue = queue
        self._buffer = buffer
        self._early = early
        self._events: LinkEvents | None = None
        self._unsent = bytearray()
        self._is_over = False

    def start(self, events: LinkEvents, wake: Callable[[Callable[[], None]], object]) -> None:
        self._events = events
        if self._early:
            wake(self._take_early)

    def send(self, destination: str, body: bytes, *, durable: bool = False, mandatory: bool = False) -> None:
        if len(body) > self.capabilities.max_message:
            raise MessageTooLargeError("a message", len(body), self.capabilities.max_message)
        if not self._is_over:
            self._unsent += encode_control(LinkSend(destination, body, durable, mandatory))

    def flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            self._unsent.clear()
            self._end(error)

    def begin_confirms(self) -> None:
        """Nothing: nobody confirms."""

    def ack(self, tag: int) -> None:
        """Inboxes need none."""

    def fileno(self) -> int | None:
        return None if self._is_over else self._socket.fileno()

    def wants_write(self) -> bool:
        return bool(self._unsent)

    def on_readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if not data:
            self._end(ConnectionError("the worker closed the way to its broker"))
            return
        self._buffer += data
        for record in take_controls(self._buffer):
            self._take(record)

    def on_writable(self) -> None:
        self.flush()

    def tick(self, now: float) -> float:
        return now + _FAR

    def close(self) -> None:
        self.flush()
        self._end(None)

    def _take_early(self) -> None:
        early, self._early = self._early, ()
        for record in early:
            self._take(record)

    def _take(self, record: object) -> None:
        events = self._events
        if events is None or self._is_over:
            return
        if isinstance(record, LinkBody):
            events.received(self._queue, record.body, 0)
        elif isinstance(record, LinkReturned):
            events.returned(record.destination)
        elif isinstance(record, LinkBlocked):
            events.blocked(record.is_blocked)

    def _end(self, error: Exception | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._events is not None:
            self._events.disconnected(error)
        with contextlib.suppress(OSError):
            self._socket.close()
