"""The link to every broker that Kombu has a virtual transport for: Redis, and others through ``kombu+SCHEME://``.

Such transports block, so two threads work for a link, each with a Kombu connection of its own: one waits for
deliveries, one publishes. They hand over to the owner by ``wake``. A delivery leaves the broker when it is read and
nothing is acknowledged: what is lost on the way, sessions send again.

Kombu carries the bodies as raw bytes. Its serializers and its compression are used neither way, because both would open
what nobody has checked the signature of yet.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kombu.connection import Connection as KombuConnection
from kombu.entity import Exchange
from kombu.entity import Queue as KombuQueue
from kombu.exceptions import BatchPublishError
from kombu.messaging import Consumer, Producer
from kombu.transport import virtual

from futurebroker.broker_adapters.connection import connect_first
from futurebroker.config import hide_password
from futurebroker.exceptions import (
    BrokerRefusedError,
    BrokerUnreachableError,
    ClusterConnectionError,
    ConfigError,
    LinkLostError,
    MessageTooLargeError,
)
from futurebroker.transport.base import TOKENS, Capabilities, Link, LinkEvents, Queue, QueueKind, Socketless

logger = logging.getLogger("futurebroker.kombu")

PREFIX = "kombu+"
MAX_MESSAGE = 16 * 1024 * 1024
#: seconds after which a queue that nobody wrote to is gone with what it holds, where the broker can do that
QUEUE_SECONDS = 600
#: bytes that may wait for the owner before the reader stops reading
_WAITING_MAX = 16 * 1024 * 1024
#: messages published in one go
_BATCH = 256
#: destinations whose queues the writer remembers to have declared
_DECLARED_MAX = 4096
#: seconds: one wait for a delivery, between two tries on a broker without room, for the last words at close
_READ_SECONDS = 1.0
_FULL_PAUSE = 0.2
_CLOSE_SECONDS = 0.5
#: seconds between two looks of a transport that has to ask; Kombu's own second would be every task's round trip
_LOOK_EVERY = 0.02


def open_link(url: str, queues: Sequence[Queue], *, secret: bytes, timeout: float, name: str) -> Link:
    """Open a link to the first of the brokers in ``url`` that works; see `transport.base.Opener`."""
    del secret  # it signs envelopes; the password of such a broker stands in its URL
    parts = [part.strip().removeprefix(PREFIX) for part in url.split(";") if part.strip()]

    def open_one(part: str, deadline: float) -> KombuLink:
        return _open(part, queues, deadline, name)

    link: KombuLink = connect_first(parts, time.monotonic() + timeout, open_one)
    return link


def _open(url: str, queues: Sequence[Queue], deadline: float, name: str) -> KombuLink:
    halves: list[_Half] = []
    try:
        for _ in ("reader", "writer"):
            halves.append(_Half(url, deadline, name))
        reader, writer = halves
        return KombuLink(reader, writer, queues, hide_password(url))
    except ClusterConnectionError:
        for half in halves:
            half.close()
        raise


class _Half:
    """One Kombu connection with one channel, used by one thread at a time."""

    def __init__(self, url: str, deadline: float, name: str) -> None:
        self.where = hide_password(url)
        seconds = max(deadline - time.monotonic(), 0.01)
        options: dict[str, Any] = {
            "socket_connect_timeout": seconds,
            "socket_timeout": max(min(seconds, 10.0), 1.0),
            "health_check_interval": 10,
            "client_name": name.replace(" ", "-"),
            "priority_steps": [0],  # more would be a key each, asked for at every turn
            "ack_emulation": False,  # nothing is acknowledged, and its upkeep needs writes that a full Redis refuses
        }
        tls = {"ssl_cert_reqs": "required", "ssl_check_hostname": True} if url.startswith("rediss:") else False
        try:
            connection = KombuConnection(url, connect_timeout=seconds, ssl=tls, transport_options=options)  # type: ignore[no-untyped-call]
            self.transport: Any = connection.transport
        except (ImportError, KeyError, ValueError, AttributeError) as error:
            # not the error's text: it may hold the URL with its password
            raise ConfigError(f"{self.where}: {_missing(error)}") from None
        if not issubclass(type(self.transport), virtual.Transport):
            raise ConfigError(f"{self.where}: this is no virtual transport of Kombu; for AMQP write amqp://")
        if self.transport.polling_interval == virtual.Transport.polling_interval:
            self.transport.polling_interval = _LOOK_EVERY
        #: what the transport and its library raise
        self.errors = (*self.transport.connection_errors, *self.transport.channel_errors, BatchPublishError, OSError)
        try:
            # Kombu's own connect() tries twice with a pause of two seconds; who reconnects is decided elsewhere
            self._connection = self.transport.establish_connection()
            self.channel = self.transport.create_channel(self._connection)
        except self.errors as error:
            raise explain(error, self.where) from error
        self.channel.Message = _raw_message(self.channel.Message)

    def drain(self, seconds: float) -> None:
        """Wait for one delivery; a TimeoutError says that none came."""
        self.transport.drain_events(self._connection, timeout=seconds)

    def close(self) -> None:
        """End the connection; what is wrong with it by now doesn't matter any more."""
        try:
            self.transport.close_connection(self._connection)
        except Exception as error:  # noqa: BLE001 - libraries raise anything at all on a connection that broke
            logger.debug("while closing %s: %s", self.where, type(error).__name__)


class KombuLink(Socketless):
    """A `Link` over a Kombu transport; see `transport.base` for what its methods promise."""

    def __init__(self, reader: _Half, writer: _Half, queues: Sequence[Queue], where: str) -> None:
        self.capabilities = Capabilities(
            durable=False, confirms=False, mandatory=False, peer_death=False, max_message=MAX_MESSAGE
        )
        #: messages that were read and are no bodies of ours
        self.unreadable = 0
        self._reader = reader
        self._writer = writer
        self._where = where
        self._inboxes = [queue.name for queue in queues if queue.kind is QueueKind.INBOX]
        self._events: LinkEvents | None = None
        self._wake: Callable[[Callable[[], None]], object] | None = None
        #: guards what the three threads share: the four below
        self._changed = threading.Condition()
        self._outbox: deque[tuple[str, bytes]] = deque()
        self._arrived: deque[tuple[str, bytes]] = deque()
        self._arrived_bytes = 0
        self._is_woken = False
        self._is_over = False
        self._buffer: list[tuple[str, bytes]] = []
        self._declared: set[str] = set()
        self._threads: list[threading.Thread] = []
        try:
            for queue in queues:
                if queue.kind is QueueKind.DEAD or queue.kind in TOKENS:
                    continue
                consumer: Any = Consumer(  # type: ignore[no-untyped-call]
                    reader.channel,
                    queues=[_declaration(queue.name)],
                    no_ack=True,
                    accept=[],
                    on_message=self._keeper(queue.name),
                )
                consumer.consume()
        except reader.errors as error:
            raise explain(error, where) from error

    # -- Link, on the owner's thread -----------------------------------------------------------------------------------

    def start(self, events: LinkEvents, wake: Callable[[Callable[[], None]], object]) -> None:
        self._events = events
        self._wake = wake
        for work, title in ((self._read, "reader"), (self._write, "writer")):
            # daemons: an owner that forgot to close must not keep its program from ending
            thread = threading.Thread(target=work, name=f"futurebroker-kombu-{title}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def send(self, destination: str, body: bytes, *, durable: bool = False, mandatory: bool = False) -> None:
        if len(body) > MAX_MESSAGE:
            raise MessageTooLargeError("a message", len(body), MAX_MESSAGE)
        if not self._is_over:
            self._buffer.append((destination, body))

    def flush(self) -> None:
        if self._buffer and not self._is_over:
            with self._changed:
                self._outbox.extend(self._buffer)
                self._changed.notify_all()
            self._buffer.clear()

    def begin_confirms(self) -> None:
        """Nothing: nobody confirms."""

    def ack(self, tag: int) -> None:
        """Nothing: a delivery left the broker when it was read."""

    def close(self) -> None:
        if self._is_over:
            return
        self.flush()
        self._end(None)
        if not self._threads:
            self._reader.close()
            self._writer.close()
            return
        # a goodbye is the last thing a process sends, and its threads end with it
        self._threads[1].join(_CLOSE_SECONDS)

    def _end(self, error: Exception | None) -> None:
        with self._changed:
            self._is_over = True
            if error is not None:
                self._outbox.clear()
            self._arrived.clear()
            self._changed.notify_all()
        self._buffer.clear()
        if self._events is not None:
            self._events.disconnected(error)

    def _lost(self, reason: str) -> None:
        if not self._is_over:
            self._end(LinkLostError(self._where, reason))

    def _hand_over(self) -> None:
        """Tell the owner what arrived, at most what is there now."""
        with self._changed:
            # before anything is taken: what arrives from here on wakes again
            self._is_woken = False
            arrived, self._arrived = self._arrived, deque()
            self._arrived_bytes = 0
            self._changed.notify_all()
        for queue, body in arrived:
            if self._is_over or self._events is None:
                return
            self._events.received(queue, body, 0)

    # -- on the threads ------------------------------------------------------------------------------------------------

    def _tell(self, call: Callable[[], None]) -> None:
        """Run ``call`` on the owner's thread; a loop that has ended has no owner to tell."""
        try:
            if self._wake is not None:
                self._wake(call)
        except RuntimeError:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _keeper(self, queue: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            body = message.body
            if not isinstance(body, bytes) or message.errors or len(body) > MAX_MESSAGE:
                self._note_unreadable("its body is no bytes of ours")
                return
            with self._changed:
                while self._arrived_bytes > _WAITING_MAX and not self._is_over:
                    self._changed.wait(_READ_SECONDS)
                self._arrived.append((queue, body))
                self._arrived_bytes += len(body)
                if self._is_woken:
                    return
                self._is_woken = True
            self._tell(self._hand_over)

        return keep

    def _note_unreadable(self, what: str) -> None:
        self.unreadable += 1
        if self.unreadable == 1:
            logger.warning("dropped a message from %s: %s; more of this kind are only counted", self._where, what)

    def _read(self) -> None:
        reader = self._reader
        try:
            while not self._is_over:
                try:
                    reader.drain(_READ_SECONDS)
                except TimeoutError:
                    continue
                except reader.errors as error:
                    self._tell(_bound(self._lost, _reason(error)))
                    return
                except Exception as error:  # noqa: BLE001 - Kombu takes a message apart before we see it: any error
                    self._note_unreadable(type(error).__name__)
            for queue in self._inboxes:
                # nobody reads it again; without this it would stay until it expires
                reader.channel.queue_purge(queue)
                reader.channel.queue_delete(queue)
        except reader.errors as error:
            logger.debug("while removing inboxes at %s: %s", self._where, type(error).__name__)
        finally:
            reader.close()

    def _write(self) -> None:
        writer = self._writer
        producer = Producer(writer.channel, auto_declare=False)  # type: ignore[no-untyped-call]
        try:
            while True:
                with self._changed:
                    while not self._outbox and not self._is_over:
                        self._changed.wait()
                    if not self._outbox:
                        return
                    batch = [self._outbox.popleft() for _ in range(min(len(self._outbox), _BATCH))]
                self._publish_all(producer, batch)
        except writer.errors as error:
            self._tell(_bound(self._lost, _reason(error)))
        finally:
            writer.close()

    def _publish_all(self, producer: Any, batch: list[tuple[str, bytes]]) -> None:
        """Publish ``batch``; while the broker has no room, say so and try again.

        What was published before the broker refused is published twice; sessions drop the second.
        """
        is_blocked = False
        while True:
            try:
                self._publish(producer, batch)
            except self._writer.errors as error:
                if not _is_full(error) or self._is_over:
                    raise
            else:
                if is_blocked:
                    self._tell(_bound(self._tell_blocked, False))
                return
            if not is_blocked:
                is_blocked = True
                self._tell(_bound(self._tell_blocked, True))
            with self._changed:
                if not self._is_over:
                    self._changed.wait(_FULL_PAUSE)

    def _tell_blocked(self, is_blocked: bool) -> None:
        if self._events is not None and not self._is_over:
            self._events.blocked(is_blocked)

    def _publish(self, producer: Any, batch: list[tuple[str, bytes]]) -> None:
        channel = self._writer.channel
        for destination, _ in batch:
            if destination not in self._declared:
                if len(self._declared) >= _DECLARED_MAX:
                    for old in self._declared:
                        channel.queue_declare(old)  # without a time to live, so that the channel forgets it
                    self._declared.clear()
                # so that what its owner never reads expires
                channel.queue_declare(destination, arguments={"x-expires": QUEUE_SECONDS * 1000})
                self._declared.add(destination)
        with producer.batch():
            for destination, body in batch:
                producer.publish(
                    body,
                    routing_key=destination,
                    content_type="application/data",
                    content_encoding="binary",
                    delivery_mode=1,
                    retry=False,
                )


def _declaration(name: str) -> Any:
    """The queue as its reader declares it; only writers give it a time to live, at each message.

    For a reader Kombu would run a script now and then, which Redis refuses when it is full, and nobody would make room.
    """
    return KombuQueue(name, exchange=Exchange(""), routing_key=name)  # type: ignore[no-untyped-call]


def _raw_message(base: Any) -> Any:
    """``base``, a class of Kombu's messages, without the decompression that a header can ask for."""

    class RawMessage(base):  # type: ignore[misc]
        def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
            super().__init__({**payload, "headers": {}}, channel=channel, **options)

    return RawMessage


def _bound(call: Callable[[Any], None], argument: Any) -> Callable[[], None]:
    return lambda: call(argument)


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and what it came from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _reason(error: Exception) -> str:
    """The innermost words of a library's error; what stands before them may quote a whole message."""
    texts = [str(one) for one in _chain(error) if not isinstance(one, BatchPublishError)] or [str(error)]
    return texts[0].rpartition("caused error: ")[2][:200] or type(error).__name__


def _is_full(error: Exception) -> bool:
    return any(kind.__name__ == "OutOfMemoryError" for one in _chain(error) for kind in type(one).__mro__)


def _missing(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"a library is missing ({error}); for Redis: pip install 'futurebroker[redis]'"
    return "this is no address of a Kombu transport; one looks like redis://:password@host:6379/0"


def explain(error: Exception, where: str) -> ClusterConnectionError:
    """``error`` of Kombu or the broker's library as one of ours, with one sentence that says what to change."""
    names = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    text = _reason(error)
    if "AuthenticationError" in names or text.startswith(("WRONGPASS", "NOAUTH")):
        return BrokerRefusedError(where, "user and password were not accepted")
    if "NoPermissionError" in names or text.startswith("NOPERM"):
        return BrokerRefusedError(where, f"this user may not do what is needed ({text})")
    if "ResponseError" in names:
        return BrokerRefusedError(where, text)
    if "SSLCertVerificationError" in names:
        return BrokerUnreachableError(where, "its TLS certificate is not valid here")
    if any(isinstance(one, socket.gaierror) for one in _chain(error)):
        return BrokerUnreachableError(where, "there is no host of that name")
    if any(isinstance(one, ConnectionRefusedError) for one in _chain(error)):
        return BrokerUnreachableError(where, "nothing listens there (connection refused)")
    if "TimeoutError" in names:
        return BrokerUnreachableError(where, "it did not answer in time")
    return BrokerUnreachableError(where, text)
