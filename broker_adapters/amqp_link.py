"""The link to an AMQP 0-9-1 broker: py-amqp opens it, then its socket is ours and nothing blocks any more.

Two channels: what is consumed and what is sent without confirms use the first, durable sends the second, so that the
broker confirms only those, and only once that is asked for. Consumers share one channel because py-amqp, which starts
them, must not stop reading in the middle of a delivery on another.

Confirms are off until then because they cost more than all else: RabbitMQ writes its disk before each, and what comes
to the queue meanwhile waits. Over it a call's way there and back took 1.4 ms with them and 0.8 ms without. What they
would tell, the session's own acknowledgements tell as well, as long as its two sides live.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from amqp.exceptions import AMQPError

from futurebroker.broker_adapters.connection import (
    Address,
    connect,
    connect_first,
    explain,
    limit_time,
    parse_addresses,
)
from futurebroker.broker_adapters.frames import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_NACK,
    BASIC_RETURN,
    HEARTBEAT,
    MAX_MESSAGE,
    AmqpError,
    FrameReader,
    Incoming,
    OutputBuffer,
    Piece,
    Publisher,
    ack_frame,
    method_frame,
    signature,
    split_route,
)
from futurebroker.broker_adapters.tokens import CHANNEL, CONSUMER, HeldToken
from futurebroker.broker_adapters.topology import COMMAND_PREFETCH, DEAD_BYTES, DEAD_LENGTH, TOKENS_LENGTH
from futurebroker.exceptions import LinkLostError, MessageTooLargeError
from futurebroker.transport.base import TOKENS, Capabilities, Link, LinkEvents, Queue, QueueKind

_READ_SIZE = 256 * 1024
_CONSUMING, _DURABLE = 1, 2  #: channel numbers
_FAR = 3600.0
#: commands that are acknowledged at once, if there is always something to send before; far less than the prefetch
ACK_EVERY = 32
#: what the embedded broker calls itself
_EMBEDDED = "futurebroker"
_unpack_u64 = Struct(">Q").unpack_from

_CONNECTION_CLOSE = signature(10, 50)
_CONNECTION_CLOSE_OK = signature(10, 51)
_CONNECTION_BLOCKED = signature(10, 60)
_CONNECTION_UNBLOCKED = signature(10, 61)
_CHANNEL_FLOW = signature(20, 20)
_CHANNEL_FLOW_OK = signature(20, 21)
_CHANNEL_CLOSE = signature(20, 40)
_BASIC_CANCEL = signature(60, 30)
_CONFIRM_SELECT = signature(85, 10)

_TOKEN_QUEUE: dict[str, Any] = {
    "durable": True,
    "exclusive": False,
    "auto_delete": False,
    "arguments": {"x-queue-type": "classic", "x-max-length": TOKENS_LENGTH},
}
#: settings of queue.declare by kind; `embedded.local.SETTINGS` says the same. The type is named because a broker may
#: have another default, and a quorum queue can't be exclusive.
_DECLARATIONS: dict[QueueKind, dict[str, Any]] = {
    QueueKind.INBOX: {
        "durable": False,
        "exclusive": True,
        "auto_delete": True,
        "arguments": {"x-queue-type": "classic"},
    },
    QueueKind.COMMAND: {
        "durable": True,
        "exclusive": False,
        "auto_delete": False,
        "arguments": {"x-queue-type": "classic", "x-single-active-consumer": True},
    },
    QueueKind.DEAD: {
        "durable": True,
        "exclusive": False,
        "auto_delete": False,
        "arguments": {"x-queue-type": "classic", "x-max-length": DEAD_LENGTH, "x-max-length-bytes": DEAD_BYTES},
    },
    QueueKind.TOKEN: _TOKEN_QUEUE,
    QueueKind.WATCH: _TOKEN_QUEUE,
}


def open_link(url: str, queues: Sequence[Queue], *, secret: bytes, timeout: float, name: str) -> Link:
    """Open a link to the first of the brokers in ``url`` that works; see `transport.base.Opener`.

    ``amqp://host:port`` without user and password is an embedded broker; with them it is any AMQP 0-9-1 broker.
    """
    deadline = time.monotonic() + timeout

    def open_one(address: Address, until: float) -> AmqpLink:
        return _open(address, queues, until, name)

    link: AmqpLink = connect_first(parse_addresses(url, secret), deadline, open_one)
    return link


def _open(address: Address, queues: Sequence[Queue], deadline: float, name: str) -> AmqpLink:
    connection = connect(address, deadline, name)
    early: list[tuple[str, bytes, int]] = []
    token: HeldToken | None = None
    if connection.server_properties.get("product") == _EMBEDDED:
        queues = [queue for queue in queues if queue.kind not in TOKENS]  # it tells of every inbox that ends
    try:
        confirms = connection.server_capabilities.get("publisher_confirms") is True
        # before anything is consumed: py-amqp stops reading at an answer, and one on this channel could come in the
        # middle of a delivery on the other
        connection.channel(_DURABLE)
        for queue in queues:
            if queue.kind is QueueKind.TOKEN:
                token = HeldToken(connection, queue.name, _DECLARATIONS[queue.kind], deadline)
        channel = connection.channel(_CONSUMING)
        channel.auto_decode = False
        if any(queue.kind is QueueKind.COMMAND for queue in queues):
            channel.basic_qos(0, COMMAND_PREFETCH, False)
        for number, queue in enumerate(queues):
            if queue.kind is QueueKind.TOKEN:
                continue
            limit_time(connection, deadline)
            channel.queue_declare(queue=queue.name, **_DECLARATIONS[queue.kind])
            if queue.kind is QueueKind.DEAD:
                continue
            channel.basic_consume(
                queue.name,
                consumer_tag=f"q{number}",
                no_ack=queue.kind is not QueueKind.COMMAND,
                callback=_keeper(early, queue),
            )
        return AmqpLink(connection, str(address), queues, early, confirms=confirms, token=token)
    except (OSError, AMQPError) as error:
        connection.collect()
        raise explain(error, address) from error


def _keeper(early: list[tuple[str, bytes, int]], queue: Queue) -> Callable[[Any], None]:
    """A py-amqp callback that keeps what arrives before the link is started."""
    needs_ack = queue.kind is QueueKind.COMMAND

    def keep(message: Any) -> None:
        early.append((_known_as(queue), message.body, message.delivery_tag if needs_ack else 0))

    return keep


def _known_as(queue: Queue) -> str:
    """What a delivery's queue is called here: nothing where it brings the name of who has gone."""
    return "" if queue.kind in TOKENS else queue.name


class AmqpLink:
    """A `Link` over a socket that py-amqp opened; see `transport.base` for what its methods promise."""

    def __init__(
        self,
        connection: Any,
        where: str,
        queues: Sequence[Queue],
        early: list[tuple[str, bytes, int]],
        *,
        confirms: bool,
        token: HeldToken | None,
    ) -> None:
        properties = connection.server_properties
        self.capabilities = Capabilities(
            durable=properties.get("product") != _EMBEDDED,
            confirms=confirms,
            mandatory=True,
            peer_death=connection.server_capabilities.get("futurebroker.peer_death") is True,
            max_message=MAX_MESSAGE,
            token=token.name if token is not None else "",
            bulk=True,
        )
        self._token = token
        self._where = where
        self._early = early
        self._consumers = {
            f"q{number}".encode(): (_known_as(queue), queue.kind is QueueKind.COMMAND)
            for number, queue in enumerate(queues)
        }
        self._consumers[CONSUMER.encode()] = ("", False)
        commands = [queue for queue in queues if queue.kind is QueueKind.COMMAND]
        #: delivered and not acknowledged, by queue; None when "all before it" is the same for queue and channel
        self._unacked: dict[str, deque[int]] | None = (
            {queue.name: deque() for queue in commands} if len(commands) > 1 else None
        )
        #: the last of those that are to be acknowledged together, where "all before it" is that, and how many they are
        self._ack_due = self._acks_due = 0
        self._heartbeat = float(connection.heartbeat or 0)
        self._reader = FrameReader(connection.frame_max, max(_CONSUMING, _DURABLE, CHANNEL))
        self._output = OutputBuffer()
        self._pieces = self._output.pieces
        self._publisher = Publisher(_CONSUMING, connection.frame_max)
        self._durable_publisher = Publisher(_DURABLE, connection.frame_max)
        self._is_confirming = False
        self._unconfirmed: dict[int, None] = {}
        self._published = 0
        self._events: LinkEvents | None = None
        self._wake: Callable[[Callable[[], None]], object] | None = None
        self._heard = False
        self._wrote = False
        self._silent_ticks = 0
        self._next_tick = 0.0
        self._is_over = False
        # from here on the socket is ours: py-amqp must neither read from it nor close it
        transport = connection.transport
        self._sock = transport.sock
        self._leftover = bytes(transport._read_buffer)
        transport.sock = None
        transport.connected = False
        self._sock.setblocking(False)
        self._is_tls = isinstance(self._sock, ssl.SSLSocket)
        self._send_some: Callable[[Piece], int] = self._send_tls if self._is_tls else self._sock.send

    @property
    def unconfirmed(self) -> int:
        """Durable sends since `begin_confirms` that the broker has not confirmed yet."""
        return len(self._unconfirmed)

    def begin_confirms(self) -> None:
        if self.capabilities.confirms and not self._is_over and not self._is_confirming:
            self._is_confirming = True
            self._pieces.append(method_frame(_DURABLE, _CONFIRM_SELECT, "b", (True,)))  # not to be answered

    def start(self, events: LinkEvents, wake: Callable[[Callable[[], None]], object]) -> None:
        self._events = events
        self._wake = wake
        # also without anything to hand over: TLS may hold bytes that no poller can see
        wake(self._begin)

    def _begin(self) -> None:
        early, self._early = self._early, []
        for queue, body, tag in early:
            if self._events is not None and not self._is_over:
                self._note_unacked(queue, tag)
                if queue:
                    self._events.received(queue, body, tag)
                else:
                    self._events.returned(bytes(body).decode(errors="replace"))
        leftover, self._leftover = self._leftover, b""
        if leftover:
            self._take(leftover)
        self.on_readable()

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, destination: str, body: bytes, *, durable: bool = False, mandatory: bool = False) -> None:
        if self._is_over:
            return
        if len(body) > MAX_MESSAGE:
            raise MessageTooLargeError("a message", len(body), MAX_MESSAGE)
        if durable:
            if self._is_confirming:
                self._published += 1
                self._unconfirmed[self._published] = None
            self._durable_publisher.append(self._pieces, destination, body, True, mandatory)
        else:
            self._publisher.append(self._pieces, destination, body, False, mandatory)

    def ack(self, tag: int) -> None:
        if self._is_over or not tag:
            return
        if self._unacked is None:
            # Not before what is sent now: the broker would see to it first, and somebody waits for the other.
            self._ack_due = tag
            self._acks_due += 1
            return
        for tags in self._unacked.values():
            if tag in tags:
                while tags and tags[0] <= tag:
                    self._pieces.append(ack_frame(_CONSUMING, tags.popleft(), multiple=False))
                return

    def _append_ack(self) -> None:
        self._pieces.append(ack_frame(_CONSUMING, self._ack_due, multiple=True))
        self._ack_due = self._acks_due = 0

    def flush(self) -> None:
        if self._is_over:
            return
        has_some = bool(self._pieces or self._output.rest)
        if self._acks_due and (self._acks_due >= ACK_EVERY or not has_some):
            self._append_ack()
        elif not has_some:
            return
        try:
            if self._output.write(self._send_some):
                self._wrote = True
        except OSError as error:
            # told on the owner's next turn: whoever flushes is in the middle of something
            reason = _reason(error)
            if self._wake is not None:
                self._wake(lambda: self._lost(reason))

    def wants_write(self) -> bool:
        return not self._is_over and bool(self._pieces or self._output.rest)

    def on_writable(self) -> None:
        self.flush()

    def _send_tls(self, data: Piece) -> int:
        try:
            return int(self._sock.send(data))
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            raise BlockingIOError from None

    # -- receiving ---------------------------------------------------------------------------------------------------

    def fileno(self) -> int | None:
        return None if self._is_over else int(self._sock.fileno())

    def on_readable(self) -> None:
        while not self._is_over:
            try:
                data = self._sock.recv(_READ_SIZE)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._lost(_reason(error))
                return
            if not data:
                self._lost("the broker closed the connection")
                return
            self._take(data)
            if not self._is_tls:
                return  # the poller sees what is left; TLS may hold decrypted bytes that it does not see

    def _take(self, data: bytes) -> None:
        self._heard = True
        events, consumers = self._events, self._consumers
        if events is None:
            return
        try:
            for incoming in self._reader.feed(data):
                payload, body = incoming.payload, incoming.body
                if payload[:4] == BASIC_DELIVER and body is not None:
                    end = 5 + payload[4]
                    queue, needs_ack = consumers[payload[5:end]]
                    tag = 0
                    if needs_ack:
                        tag = _unpack_u64(payload, end)[0]
                        if self._unacked is not None:
                            self._note_unacked(queue, tag)
                    if queue:
                        events.received(queue, body, tag)
                    else:
                        self._take_token(payload, body, events)
                else:
                    self._take_other(incoming, events)
                if self._is_over:
                    return
        except AmqpError as error:
            self._lost(f"what it sent is no AMQP: {error.text}")

    def _take_token(self, payload: bytes, body: bytes, events: LinkEvents) -> None:
        """One that we watch for says who has gone; the one that we hold has been renewed."""
        end = 5 + payload[4]
        if self._token is None or payload[5:end] != CONSUMER.encode():
            events.returned(body.decode(errors="replace"))
        elif not self._token.renewed(body, _unpack_u64(payload, end)[0]):
            self._lost("another process got the token of this one")

    def _take_other(self, incoming: Incoming, events: LinkEvents) -> None:
        payload = incoming.payload
        method = payload[:4]
        if method in (BASIC_ACK, BASIC_NACK):
            self._confirm(payload, is_refusal=method == BASIC_NACK)
            if not self._unconfirmed and not self._is_over:
                events.confirmed()
        elif method == BASIC_RETURN:
            events.returned(split_route(payload[7 + payload[6] :])[1])
        elif method in (_CONNECTION_BLOCKED, _CONNECTION_UNBLOCKED):
            events.blocked(method == _CONNECTION_BLOCKED)
        elif method in (_CONNECTION_CLOSE, _CHANNEL_CLOSE):
            text = payload[7 : 7 + payload[6]].decode(errors="replace")
            if method == _CONNECTION_CLOSE:
                self._pieces.append(method_frame(0, _CONNECTION_CLOSE_OK))
                self.flush()
            self._lost(f"the broker closed it: {text}")
        elif method == _BASIC_CANCEL:
            queue, _ = self._consumers.get(payload[5 : 5 + payload[4]], ("?", False))
            self._lost(f"the queue {queue} was deleted")
        elif method == _CHANNEL_FLOW:
            active = bool(payload[4] & 1)
            self._pieces.append(method_frame(incoming.channel, _CHANNEL_FLOW_OK, "b", (active,)))
            events.blocked(not active)
        elif method == BASIC_DELIVER:
            self._drop_oversized(payload)

    def _confirm(self, payload: bytes, *, is_refusal: bool) -> None:
        tag, multiple = _unpack_u64(payload, 4)[0], payload[12] & 1
        if is_refusal:
            self._lost("the broker could not keep a durable message")
        elif multiple:
            while self._unconfirmed:
                first = next(iter(self._unconfirmed))
                if first > tag:
                    return
                del self._unconfirmed[first]
        else:
            self._unconfirmed.pop(tag, None)

    def _drop_oversized(self, payload: bytes) -> None:
        """A body over our bound is nothing of ours; refuse it for good, or it would come back for ever."""
        end = 5 + payload[4]
        _, needs_ack = self._consumers[payload[5:end]]
        if needs_ack:
            tag = _unpack_u64(payload, end)[0]
            self._pieces.append(ack_frame(_CONSUMING, tag, multiple=False, method=signature(60, 90)))

    def _note_unacked(self, queue: str, tag: int) -> None:
        if tag and self._unacked is not None:
            self._unacked[queue].append(tag)

    # -- living and ending -------------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        if self._is_over or not self._heartbeat:
            return now + _FAR
        if now < self._next_tick:
            return self._next_tick
        if self._heard:
            self._silent_ticks = 0
        else:
            # whole ticks are counted and not time, so that a process that stood still doesn't blame the broker
            self._silent_ticks += 1
            if self._silent_ticks > 4:
                self._lost(f"nothing was heard from it for {2 * self._heartbeat:g} s")
                return now + _FAR
        self._heard = False
        if self._token is not None:
            self._token.renew(self._pieces, now)
            self.flush()
        if self._acks_due:
            self._append_ack()
            self.flush()
        if not self._wrote and not self._output:
            self._pieces.append(HEARTBEAT)
            self.flush()
        self._wrote = False
        self._next_tick = now + self._heartbeat / 2
        return self._next_tick

    def close(self) -> None:
        if self._is_over:
            return
        if self._acks_due:
            self._append_ack()
        self._pieces.append(method_frame(0, _CONNECTION_CLOSE, "BsBB", (200, "closed", 0, 0)))
        try:
            self._output.write(self._send_some)
            # unread bytes would make the kernel reset the connection, and what we just sent could be lost with it
            for _ in range(64):
                if not self._sock.recv(_READ_SIZE):
                    break
        except OSError:
            pass
        self._end(None)

    def _lost(self, reason: str) -> None:
        if not self._is_over:
            self._end(LinkLostError(self._where, reason))

    def _end(self, error: Exception | None) -> None:
        self._is_over = True
        self._output.clear()
        try:
            # before the socket is closed: its owner still watches it, and its number may be given to another at once
            if self._events is not None:
                self._events.disconnected(error)
        finally:
            self._sock.close()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
