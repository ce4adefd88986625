"""The agent's end of the links of clients inside tasks: their envelopes travel over the agent's own link to the broker.

`Relay.share` wraps each link that the agent opens. What arrives there for a client goes to that client's socket, all
else to the agent; what clients send is signed anew with the cluster's key, if it is in their own name. When the link
is lost, so are theirs, and they ask for new ones. Used on the loop's thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from futurebroker.exceptions import ProtocolError
from futurebroker.protocol.messages import Goodbye, encode
from futurebroker.protocol.queues import command_queue
from futurebroker.protocol.wire import MAGIC, Header, Keyring, Kind
from futurebroker.transport.base import Capabilities, Link, LinkEvents
from futurebroker.types import Role
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

logger = logging.getLogger("futurebroker.worker")

#: signs what travels between an executor and its agent; known to all, because only these two hold the socket
EXECUTOR_SECRET = b"executor"
#: bytes read from a client's socket at a time
READ_BYTES = 256 * 1024
#: how envelopes of the scheduler to a client begin
_TO_CLIENT = MAGIC + bytes((1, (Role.SCHEDULER << 4) | Role.CLIENT))


class Relay:
    """See the top of this file.

    Args:
        worker: id of the agent; names of clients begin with it.
        flush: sends what the agent's link holds.
    """

    def __init__(
        self, secret: bytes, cluster: str, worker: str, loop: asyncio.AbstractEventLoop, flush: Callable[[], None]
    ) -> None:
        self._keys = Keyring(secret)
        self._executor_keys = Keyring(EXECUTOR_SECRET)
        self._cluster = cluster
        self._worker = worker
        self._loop = loop
        self._flush = flush
        self._shared: _SharedLink | None = None
        self._clients: dict[str, _Client] = {}
        #: headers of the last envelopes of an executor's clients, by name; sockets may end before their executor does
        self._last: dict[int, dict[str, Header]] = {}

    def share(self, link: Link, inbox: str) -> Link:
        """``link`` as the agent may use it, which reads at ``inbox``."""
        self._shared = _SharedLink(self, link, inbox)
        return self._shared

    def admit(self, executor: int, wanted: LinkWanted, sock: socket.socket) -> None:
        """A client of an executor asks for a link; it is refused, by closing ``sock``, while there is none."""
        shared = self._shared
        if shared is None or not wanted.name.startswith(f"{self._worker}-"):
            sock.close()
            return
        former = self._clients.pop(wanted.name, None)
        if former is not None:
            former.close()
        client = self._clients[wanted.name] = _Client(self, executor, wanted.name, sock, self._loop)
        can = shared.capabilities
        client.tell(LinkOpened(can.mandatory, can.peer_death, can.max_message, shared.inbox))

    def executor_ended(self, executor: int) -> None:
        """Say goodbye on behalf of the clients that went with an executor."""
        shared = self._shared
        for last in self._last.pop(executor, {}).values():
            if shared is not None:
                header = Header(Kind.MEETING, self._cluster, last.sender, last.incarnation, last.recipient, last.epoch)
                body = encode([Goodbye("its executor ended")])
                sealed = self._keys.seal(Role.CLIENT, Role.SCHEDULER, header, body)
                # By the same way as what was sent before, or it could arrive first.
                shared.send(command_queue(self._cluster), sealed, durable=shared.capabilities.durable)
        for client in [client for client in self._clients.values() if client.executor == executor]:
            self.drop(client)
        self._flush()

    def drop(self, client: _Client) -> None:
        """A client's socket has ended."""
        client.close()
        if self._clients.get(client.name) is client:
            del self._clients[client.name]

    # -- passing on -------------------------------------------------------------------------------------------------

    def send(self, client: _Client, records: list[Control]) -> None:
        """A client sends envelopes to the scheduler."""
        shared = self._shared
        if shared is None:
            return
        for record in records:
            if not isinstance(record, LinkSend):
                continue
            try:
                role, header, body = self._executor_keys.open(record.body, Role.SCHEDULER)
            except ProtocolError as error:
                logger.warning("dropped what an executor sent: %s", error)
                continue
            if role is not Role.CLIENT or header.sender != client.name or header.cluster != self._cluster:
                logger.warning("dropped what an executor sent in the name of %s", header.sender)
                continue
            self._last.setdefault(client.executor, {})[client.name] = header
            sealed = self._keys.seal(Role.CLIENT, Role.SCHEDULER, header, body)  # type: ignore[arg-type]
            durable = record.durable or (
                shared.capabilities.durable
                and header.kind == Kind.DATA
                and record.destination == command_queue(self._cluster)
            )
            shared.send(record.destination, sealed, durable=durable, mandatory=record.mandatory)
        self._flush()

    def deliver(self, envelope: bytes) -> None:
        """The scheduler sends an envelope to a client."""
        try:
            _, header, body = self._keys.open(envelope, Role.CLIENT)
        except ProtocolError as error:
            logger.warning("dropped what came for a task's client: %s", error)
            return
        client = self._clients.get(header.recipient)
        if client is not None:
            client.tell(LinkBody(self._executor_keys.seal(Role.SCHEDULER, Role.CLIENT, header, body)))  # type: ignore[arg-type]

    def tell_all(self, record: Control) -> None:
        """Tell every client something of the link."""
        for client in list(self._clients.values()):
            client.tell(record)

    def lost(self, shared: _SharedLink) -> None:
        """The agent's link has ended, and all of its clients' with it."""
        if self._shared is shared:
            self._shared = None
            for client in list(self._clients.values()):
                self.drop(client)


class _Client:
    """One client's socket."""

    def __init__(
        self, relay: Relay, executor: int, name: str, sock: socket.socket, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.executor = executor
        self.name = name
        self._relay = relay
        self._socket = sock
        self._loop = loop
        self._buffer = bytearray()
        self._unsent = bytearray()
        self._is_over = False
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    def tell(self, record: Control) -> None:
        """Send it a record. Never blocks."""
        if self._is_over:
            return
        waiting = bool(self._unsent)
        self._unsent += encode_control(record)
        if not waiting:
            self._writable()
            if self._unsent:
                self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._relay.drop(self)
            return
        self._buffer += data
        self._relay.send(self, take_controls(self._buffer))

    def close(self) -> None:
        """Let go of the socket. May be called twice."""
        if self._is_over:
            return
        self._is_over = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        with contextlib.suppress(OSError):
            self._socket.close()


class _SharedLink:
    """The agent's link: a `Link` for the agent, and the `LinkEvents` of the real one."""

    def __init__(self, relay: Relay, link: Link, inbox: str) -> None:
        self.inbox = inbox
        self._relay = relay
        self._link = link
        self._events: LinkEvents | None = None
        # nothing to do about these, and some are called with every envelope
        self.send: Callable[..., None] = link.send
        self.flush = link.flush
        self.begin_confirms = link.begin_confirms
        self.ack = link.ack
        self.fileno = link.fileno
        self.wants_write = link.wants_write
        self.on_readable = link.on_readable
        self.on_writable = link.on_writable
        self.tick = link.tick

    @property
    def capabilities(self) -> Capabilities:
        return self._link.capabilities

    def start(self, events: LinkEvents, wake: Callable[[Callable[[], None]], object]) -> None:
        self._events = events
        self._link.start(self, wake)

    def close(self) -> None:
        self._relay.lost(self)
        self._link.close()

    # -- events of the real link ------------------------------------------------------------------------------------

    def received(self, queue: str, body: bytes, tag: int) -> None:
        if body[:4] == _TO_CLIENT:
            self._relay.deliver(body)
        elif self._events is not None:
            self._events.received(queue, body, tag)

    def turn(self, call: Callable[[], None]) -> None:
        if self._events is not None:
            self._events.turn(call)
        else:
            call()

    def returned(self, destination: str) -> None:
        self._relay.tell_all(LinkReturned(destination))
        if self._events is not None:
            self._events.returned(destination)

    def confirmed(self) -> None:
        if self._events is not None:
            self._events.confirmed()

    def blocked(self, is_blocked: bool) -> None:
        self._relay.tell_all(LinkBlocked(is_blocked))
        if self._events is not None:
            self._events.blocked(is_blocked)

    def disconnected(self, error: Exception | None) -> None:
        self._relay.lost(self)
        if self._events is not None:
            self._events.disconnected(error)
