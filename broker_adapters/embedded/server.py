"""The embedded broker: an AMQP 0-9-1 server for one host, on the event loop of the process that needs it.

It keeps nothing on disk and a publisher's confirm means received: sessions and the journal make up for what is lost
with it. Stock Kombu and py-amqp clients can use it; what it does not do it refuses with 540.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence

from futurebroker.broker_adapters.credentials import USER, derive_password
from futurebroker.broker_adapters.embedded.entities import Entities
from futurebroker.broker_adapters.embedded.local import LocalLink
from futurebroker.broker_adapters.embedded.peer import Peer
from futurebroker.broker_adapters.embedded.queues import MemoryGauge, MessageQueue
from futurebroker.broker_adapters.frames import AmqpError
from futurebroker.broker_adapters.shortcut import listen_here
from futurebroker.exceptions import ClusterConnectionError, ConfigError
from futurebroker.transport.base import Link, Queue

_BACKLOG = 512
_ACCEPTS_PER_TURN = 64
_CLOSE_SECONDS = 1.0
#: peers that may be in their handshake at one time; each may hold 8 KiB
_HANDSHAKES_MAX = 512
_SHORTEST_SECRET = 16
#: addresses whose wrong logins are logged, each once
_TOLD_MAX = 100
_log = logging.getLogger("futurebroker.broker")


class EmbeddedBroker:
    """An AMQP 0-9-1 server; `start` it on a running asyncio loop, and use it on that loop's thread only.

    ``memory_limit`` is how many bytes may wait in queues before publishers are told to stop and are not read from any
    more. ``heartbeat`` is the interval in seconds that is proposed to clients.

    Raises:
        ConfigError: ``host`` can be reached from elsewhere and ``secret`` is too short to keep strangers out.
    """

    def __init__(
        self,
        secret: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        heartbeat: int = 20,
        memory_limit: int = 512 * 1024 * 1024,
    ) -> None:
        if len(secret) < _SHORTEST_SECRET and not _is_loopback(host):
            raise ConfigError(
                f"a broker on {host} can be reached from other hosts, so its secret needs at least "
                f"{_SHORTEST_SECRET} bytes; give one, or use 127.0.0.1"
            )
        self.user = USER
        self.password = derive_password(secret)
        self.heartbeat = heartbeat
        self.version = "1"
        self.entities = Entities(MemoryGauge(memory_limit), self._queue_deleted)
        self.refused_logins = 0
        self.loop: asyncio.AbstractEventLoop
        self._host = host
        self._port = port
        self._listener: socket.socket | None = None
        #: what people connect to, and the shortcut beside it
        self._listeners: list[socket.socket] = []
        self._peers: set[Peer] = set()
        self._links: set[LocalLink] = set()
        self._marked: list[Peer] = []
        self._told: set[str] = set()
        self._is_flush_due = False
        self._expiries: dict[MessageQueue, asyncio.TimerHandle] = {}
        self._nobody_left: asyncio.Event | None = None

    # -- for its owner ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; from here on clients can connect.

        Raises:
            OSError: the address is in use or not ours.
        """
        self.loop = asyncio.get_running_loop()
        found = await self.loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        here = listen_here(listener, _BACKLOG)
        self._listeners = [listener] if here is None else [listener, here]
        for one in self._listeners:
            self.loop.add_reader(one.fileno(), self._accept, one)

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        if self._listener is None:
            raise RuntimeError("the embedded broker is not started")
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The address for clients, without the password: that follows from the secret."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"amqp://{host}:{self.port}"

    def local_link(self, queues: Sequence[Queue]) -> Link:
        """A link of this very thread, with ``queues`` declared and consumed.

        Raises:
            BrokerRefusedError: a queue is held by someone else, or was declared with other settings.
        """
        link = LocalLink(self.entities, queues, self.flush, self._links.discard)
        self._links.add(link)
        return link

    async def close(self) -> None:
        """Tell everyone, wait a second for them to hear it, and let go of all sockets."""
        for listener in self._listeners:
            self.loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        self._listener = None
        for link in list(self._links):
            link.lost(ClusterConnectionError("the embedded broker was closed"))
        self._nobody_left = asyncio.Event()
        for peer in list(self._peers):
            peer.refuse(AmqpError(320, "the broker is shutting down"))
        self.flush()
        if self._peers:
            try:
                await asyncio.wait_for(self._nobody_left.wait(), _CLOSE_SECONDS)
            except TimeoutError:
                for peer in list(self._peers):
                    peer.drop()
        for timer in self._expiries.values():
            timer.cancel()
        self._expiries.clear()

    # -- for its peers ---------------------------------------------------------------------------------------------

    def mark(self, peer: Peer) -> None:
        self._marked.append(peer)

    def written_soon(self) -> None:
        if not self._is_flush_due and (self._marked or self.entities.gauge.is_over):
            # not at once: what other sockets bring in this turn of the loop may go to the same peers
            self._is_flush_due = True
            self.loop.call_soon(self._flush_turn)

    def begin_turn(self) -> None:
        for link in self._links:
            link.begin_turn()

    def hand_over(self) -> None:
        for link in list(self._links):
            link.take_turn()

    def touch(self, queue: MessageQueue) -> None:
        queue.last_used = self.loop.time()
        if queue.settings.expires is not None and queue not in self._expiries:
            self._watch_expiry(queue, queue.settings.expires)

    def login_refused(self, address: str) -> None:
        self.refused_logins += 1
        if address not in self._told and len(self._told) < _TOLD_MAX:
            self._told.add(address)
            _log.warning("refused a connection from %s: its password does not follow from this secret", address)

    def gone(self, peer: Peer) -> None:
        self._peers.discard(peer)
        if not self._peers and self._nobody_left is not None:
            self._nobody_left.set()

    # -- inside ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write to all peers that have something to be written."""
        marked, self._marked = self._marked, []
        for peer in marked:
            peer.flush()
        gauge = self.entities.gauge
        if gauge.is_over and gauge.used < gauge.limit * 0.8:
            gauge.is_over = False
            for link in list(self._links):
                link.let_go()
            for peer in list(self._peers):
                if peer.is_held_back:
                    peer.let_go()
        if self._marked:
            self.written_soon()

    def _flush_turn(self) -> None:
        self._is_flush_due = False
        self.flush()

    def _accept(self, listener: socket.socket) -> None:
        if listener not in self._listeners:
            return
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # out of file descriptors: leave the rest in the backlog and try again when something was closed
                self.loop.remove_reader(listener.fileno())
                self.loop.call_later(1.0, self._accept_again, listener)
                return
            if sum(not peer.is_known for peer in self._peers) >= _HANDSHAKES_MAX:
                sock.close()
                continue
            self._peers.add(Peer(self, sock, str(address[0]) if address else "127.0.0.1"))

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self.loop.add_reader(listener.fileno(), self._accept, listener)

    def _queue_deleted(self, queue: MessageQueue) -> None:
        timer = self._expiries.pop(queue, None)
        if timer is not None:
            timer.cancel()
        senders, queue.senders = queue.senders, set()
        for sender in senders:
            sender.inbox_ended(queue.name)

    def _watch_expiry(self, queue: MessageQueue, delay: float) -> None:
        self._expiries[queue] = self.loop.call_later(delay, self._check_expiry, queue)

    def _check_expiry(self, queue: MessageQueue) -> None:
        del self._expiries[queue]
        expires = queue.settings.expires
        if queue.is_deleted or expires is None:
            return
        unused = self.loop.time() - queue.last_used
        if queue.consumers:
            self._watch_expiry(queue, expires)
        elif unused >= expires:
            self.entities.delete_queue(queue)
            self.written_soon()
        else:
            self._watch_expiry(queue, expires - unused)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
