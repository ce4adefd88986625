"""One client's socket on the embedded broker: handshake, heartbeats, channels, and output that waits its turn.

A peer that has not logged in may hold 8 KiB of our memory and 10 seconds of our time.
"""

from __future__ import annotations

import hmac
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from enum import Enum
from typing import Any

from futurebroker.broker_adapters.embedded.arguments import decode, sasl_credentials
from futurebroker.broker_adapters.embedded.channel import HIGH_WATER, Channel
from futurebroker.broker_adapters.embedded.hosting import Broker
from futurebroker.broker_adapters.embedded.queues import MessageQueue
from futurebroker.broker_adapters.frames import (
    BASIC_PUBLISH,
    DEFAULT_FRAME_MAX,
    HEARTBEAT,
    PROTOCOL_HEADER,
    AmqpError,
    FrameReader,
    Incoming,
    OutputBuffer,
    method_frame,
    signature,
)

READ_SIZE = 256 * 1024
#: over this much unsent output a peer is not read from: its own requests fill it
_STOP_READING = 4 * HIGH_WATER
_CHANNEL_MAX = 2047
_HANDSHAKE_SECONDS = 10.0
_CLOSING_SECONDS = 5.0
_HANDSHAKE_FRAME_MAX = 8192

_CAPABILITIES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "consumer_priorities": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
    "per_consumer_qos": True,
    "futurebroker.peer_death": True,
}


class Stage(Enum):
    """How far a connection has come."""

    HEADER = "header"  #: nothing but the protocol header may arrive
    LOGIN = "login"  #: connection.start was sent
    TUNING = "tuning"  #: the password was right, connection.tune was sent
    OPENING = "opening"  #: tuned; connection.open is due
    OPEN = "open"
    CLOSING = "closing"  #: we sent connection.close, or answered it: only what is buffered still leaves
    CLOSED = "closed"


#: bytes below which what was read is one call or one answer, that somebody waits for, and no part of a burst
_LONE = 1024


class Peer:
    """One connection that was accepted."""

    def __init__(self, broker: Broker, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.broker = broker
        self.entities = broker.entities
        self.stage = Stage.HEADER
        self.output = OutputBuffer()
        self.pieces = self.output.pieces
        self.waiting = 0
        self.frame_max = DEFAULT_FRAME_MAX
        self.tells_cancel = False
        self.tells_inbox_end = False
        self.is_marked = False
        self.is_held_back = False
        self._tells_blocked = False
        self._address = address
        self._sock = sock
        self._fd = sock.fileno()
        self._reader = FrameReader(_HANDSHAKE_FRAME_MAX, 0)
        self._header = b""
        self._channel_max = _CHANNEL_MAX
        self._channels: dict[int, Channel] = {}
        self._heard = False
        self._silent_ticks = 0
        self._wrote = False
        self._is_reading = True
        self._is_writing = False
        self._is_finished = False
        self._is_deaf = False
        self._is_cut = False
        self._heartbeat = 0
        self._timer: TimerHandle | None = broker.loop.call_later(_HANDSHAKE_SECONDS, self.drop)
        broker.loop.add_reader(self._fd, self.on_readable)

    @property
    def is_known(self) -> bool:
        """Whether it logged in, so that its resources are its own business."""
        return self.stage not in (Stage.HEADER, Stage.LOGIN)

    # -- reading -------------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Read once and do all that is complete."""
        try:
            data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        self._heard = True
        is_lone = len(data) < _LONE
        if is_lone:
            self.broker.begin_turn()
        try:
            for incoming in self._parse(data):
                try:
                    self._take(incoming)
                except AmqpError as error:
                    self.refuse(error)
            for channel in self._channels.values():
                if channel.confirms:
                    channel.send_confirms()
            self._update_reading()
        except Exception:
            # a mistake of ours must not leave a peer half served; the loop reports it
            self.refuse(AmqpError(541, "the broker made a mistake, its log has more"))
            raise
        finally:
            if is_lone:
                self.broker.hand_over()
            self.broker.written_soon()

    def _parse(self, data: bytes) -> list[Incoming]:
        if self._is_deaf:
            return []
        if self.stage is Stage.HEADER:
            data = self._take_header(data)
        try:
            return self._reader.feed(data)
        except AmqpError as error:
            # where the next frame begins can't be known any more, so not even the answer to this is read
            self._is_deaf = True
            self.refuse(error)
            return []

    def _take_header(self, data: bytes) -> bytes:
        self._header += data[: 8 - len(self._header)]
        rest = data[len(self._header) :] if len(self._header) == 8 else b""
        if not PROTOCOL_HEADER.startswith(self._header):
            # the one answer the protocol has for another version; HTTP and port scanners get it, too
            self.pieces.append(PROTOCOL_HEADER)
            self._finish()
            return b""
        if len(self._header) == 8:
            self.stage = Stage.LOGIN
            properties = {
                "product": "futurebroker",
                "version": self.broker.version,
                "platform": "Python",
                "capabilities": _CAPABILITIES,
            }
            self._send(0, 10, 10, "ooFSS", (0, 9, properties, "PLAIN AMQPLAIN", "en_US"))
        return rest

    def _take(self, incoming: Incoming) -> None:
        number, payload, properties = incoming.channel, incoming.payload, incoming.properties
        channel = self._channels.get(number)
        if self.stage is Stage.CLOSING:
            if payload[:4] == _CLOSE_OK:
                self._finish()
            elif payload[:4] == _CLOSE:
                self._send(0, 10, 51)
                self._finish()
            return
        if channel is None:
            self._take_without_channel(number, payload)
            return
        if channel.is_closing:
            if payload[:4] == _CHANNEL_CLOSE_OK:
                del self._channels[number]
            elif payload[:4] == _CHANNEL_CLOSE:
                self._send(number, 20, 41)
            return
        try:
            if properties is not None:
                if payload[:4] != BASIC_PUBLISH:
                    raise AmqpError(503, "a client may send content only with basic.publish")
                channel.publish(payload, properties, incoming.body)
            elif payload[:4] == _CHANNEL_CLOSE:
                self._end_channel(channel)
                del self._channels[number]
                self._send(number, 20, 41)
            elif payload[:4] == _CHANNEL_OPEN:
                raise AmqpError(504, "second 'channel.open' seen")
            else:
                channel.take(payload)
        except AmqpError as error:
            if error.ends_connection:
                raise
            self._refuse_channel(channel, error, payload)
        except ValueError as error:
            raise AmqpError(502, str(error)) from None

    def _take_without_channel(self, number: int, payload: bytes) -> None:
        method = payload[:4]
        if number == 0:
            try:
                stage, layout, function = _METHODS[method]
            except KeyError:
                raise AmqpError(540, "a method of the connection is not served here") from None
            if stage is not None and stage is not self.stage:
                raise AmqpError(503, f"a method of the connection came out of turn, while {self.stage.value}")
            function(self, *decode(layout, payload))
        elif self.stage is not Stage.OPEN:
            raise AmqpError(504, "a channel is used before the connection is open")
        elif method == _CHANNEL_OPEN:
            self._channels[number] = Channel(self, number)
            self._send(number, 20, 11, "S", ("",))
        elif method != _CHANNEL_CLOSE_OK:
            raise AmqpError(504, f"expected 'channel.open' on channel {number}")

    # -- the connection's own methods -----------------------------------------------------------------------------

    def _start_ok(self, properties: dict[str, Any], mechanism: str, response: bytes, _locale: str) -> None:
        wanted = properties.get("capabilities")
        capabilities = wanted if isinstance(wanted, dict) else {}
        user, password = sasl_credentials(mechanism, response)
        is_known = hmac.compare_digest(user, self.broker.user.encode())
        if not (hmac.compare_digest(password, self.broker.password.encode()) and is_known):
            self.broker.login_refused(self._address)
            if capabilities.get("authentication_failure_close") is not True:
                self.drop()
                return
            text = f"Login was refused using authentication mechanism {mechanism}"
            self.refuse(AmqpError(403, text))
            return
        self.tells_cancel = capabilities.get("consumer_cancel_notify") is True
        self.tells_inbox_end = capabilities.get("futurebroker.peer_death") is True
        self._tells_blocked = capabilities.get("connection.blocked") is True
        self.stage = Stage.TUNING
        self._send(0, 10, 30, "BlB", (_CHANNEL_MAX, DEFAULT_FRAME_MAX, self.broker.heartbeat))

    def _tune_ok(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        frame_max = frame_max or DEFAULT_FRAME_MAX
        if not 4096 <= frame_max <= DEFAULT_FRAME_MAX:
            raise AmqpError(530, f"frame_max={frame_max} is not between 4096 and {DEFAULT_FRAME_MAX}")
        channel_max = channel_max or _CHANNEL_MAX
        if channel_max > _CHANNEL_MAX:
            raise AmqpError(530, f"channel_max={channel_max} is over {_CHANNEL_MAX}")
        self.frame_max = frame_max
        self._channel_max = channel_max
        self._heartbeat = heartbeat
        self.stage = Stage.OPENING

    def _open(self, vhost: str, _capabilities: str, _insist: bool) -> None:
        if vhost != "/":
            raise AmqpError(530, f"vhost {vhost} not found")
        self.stage = Stage.OPEN
        self._reader.frame_max = self.frame_max
        self._reader.channel_max = self._channel_max
        self._cancel_timer()
        if self._heartbeat:
            self._timer = self.broker.loop.call_later(self._heartbeat / 2, self._tick)
        self._send(0, 10, 41, "s", ("",))

    def _close(self, _code: int, _text: str, _class: int, _method: int) -> None:
        self._take_down()
        self._send(0, 10, 51)
        self._finish()

    def _close_ok(self) -> None:
        self.drop()

    def _tick(self) -> None:
        """Twice in each heartbeat interval: speak if we were silent, give up on a peer that was."""
        if self._heard or self.is_held_back or not self._is_reading:
            self._silent_ticks = 0
        else:
            # whole ticks are counted and not time, so that a loop that stood still doesn't blame its peers
            self._silent_ticks += 1
            if self._silent_ticks > 4:
                self.drop()
                return
        self._heard = False
        if not self._wrote and not self.output:
            self.pieces.append(HEARTBEAT)
            self.flush()
            if self.stage is Stage.CLOSED:
                return
        self._wrote = False
        self._timer = self.broker.loop.call_later(self._heartbeat / 2, self._tick)

    # -- refusing and ending ---------------------------------------------------------------------------------------

    def refuse(self, error: AmqpError) -> None:
        """Close the connection and tell why; what the peer still sends is thrown away."""
        if self.stage in (Stage.CLOSING, Stage.CLOSED):
            return
        if self.stage is Stage.HEADER:
            self.drop()
            return
        self._take_down()
        self._send(0, 10, 50, "BsBB", (error.code, error.reply_text, 0, 0))
        self.stage = Stage.CLOSING
        self._cancel_timer()
        self._timer = self.broker.loop.call_later(_CLOSING_SECONDS, self.drop)

    def _refuse_channel(self, channel: Channel, error: AmqpError, payload: bytes) -> None:
        channel.is_closing = True
        self._end_channel(channel)
        class_id, method_id = int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")
        self._send(channel.number, 20, 40, "BsBB", (error.code, error.reply_text, class_id, method_id))

    def _end_channel(self, channel: Channel) -> None:
        channel.is_closing = True
        if channel.confirms:
            channel.send_confirms()
        for queue, messages in channel.end().items():
            queue.requeue(messages)

    def _take_down(self) -> None:
        """End channels and exclusive queues, then give unacknowledged messages back to those that remain."""
        for channel in self._channels.values():
            channel.is_closing = True
        back = [entry for channel in self._channels.values() for entry in channel.end().items()]
        for channel in self._channels.values():
            for queue in self.entities.queues.values():
                queue.senders.discard(channel)
        self._channels.clear()
        for queue in [queue for queue in self.entities.queues.values() if queue.owner is self]:
            self.entities.delete_queue(queue)
        for queue, messages in back:
            queue.requeue(messages)

    def _finish(self) -> None:
        """Close the socket once what is buffered has left, or after a while in any case."""
        self.stage = Stage.CLOSING
        self._cancel_timer()
        self._timer = self.broker.loop.call_later(_CLOSING_SECONDS, self.drop)
        self._is_finished = True
        self.flush()

    def drop(self) -> None:
        """The connection is over: close the socket, take everything down."""
        if self.stage is Stage.CLOSED:
            return
        self.stage = Stage.CLOSED
        self._cancel_timer()
        loop = self.broker.loop
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        self._sock.close()
        self._take_down()
        self.output.clear()
        self.broker.gone(self)
        self.broker.written_soon()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- writing -------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        if not self.is_marked:
            self.is_marked = True
            self.broker.mark(self)

    def touch(self, queue: MessageQueue) -> None:
        self.broker.touch(queue)

    def flush(self) -> None:
        """Write what waits; where that made room, let consumers and the reading go on."""
        self.is_marked = False
        if self.stage is Stage.CLOSED:
            return
        try:
            written = self.output.write(self._sock.send)
        except OSError:
            # It has gone, but what it said before (a goodbye, perhaps) is still to be read, and ends with its end.
            self._is_cut = True
        if self._is_cut:
            self.output.clear()
            self.waiting = 0
            self._watch_writable(False)
            self._update_reading()
            return
        if written:
            self._wrote = True
        was_full = self.waiting >= HIGH_WATER
        is_empty = not self.output
        self.waiting = 0 if is_empty else max(HIGH_WATER if was_full else 0, self.waiting)
        self._watch_writable(not is_empty)
        if is_empty:
            if self._is_finished:
                self.drop()
                return
            if was_full:
                for channel in list(self._channels.values()):
                    channel.dispatch()
        self._update_reading()

    def _watch_writable(self, wanted: bool) -> None:
        if wanted is not self._is_writing:
            self._is_writing = wanted
            if wanted:
                self.broker.loop.add_writer(self._fd, self._on_writable)
            else:
                self.broker.loop.remove_writer(self._fd)

    def _on_writable(self) -> None:
        self.flush()
        self.broker.written_soon()

    def hold_back(self) -> None:
        if not self.is_held_back:
            self.is_held_back = True
            self._tell_blocked(True)

    def let_go(self) -> None:
        """End `hold_back`."""
        self.is_held_back = False
        self._tell_blocked(False)
        self._update_reading()

    def _tell_blocked(self, is_blocked: bool) -> None:
        if self._tells_blocked and self.stage is Stage.OPEN:
            if is_blocked:
                self._send(0, 10, 60, "s", ("too many messages wait in queues",))
            else:
                self._send(0, 10, 61)

    def _update_reading(self) -> None:
        if self.stage is Stage.CLOSED:
            return
        wanted = self._is_cut or (not self.is_held_back and self.waiting < _STOP_READING)
        if wanted is not self._is_reading:
            self._is_reading = wanted
            if wanted:
                self.broker.loop.add_reader(self._fd, self.on_readable)
            else:
                self.broker.loop.remove_reader(self._fd)

    def _send(self, number: int, class_id: int, method_id: int, layout: str = "", values: tuple[Any, ...] = ()) -> None:
        frame = method_frame(number, signature(class_id, method_id), layout, values)
        self.pieces.append(frame)
        self.waiting += len(frame)
        self.mark()


_CLOSE = signature(10, 50)
_CLOSE_OK = signature(10, 51)
_CHANNEL_OPEN = signature(20, 10)
_CHANNEL_CLOSE = signature(20, 40)
_CHANNEL_CLOSE_OK = signature(20, 41)

#: signature -> the only stage it may come in (None: any), format of the arguments, function
_METHODS: dict[bytes, tuple[Stage | None, str, Callable[..., None]]] = {
    signature(10, 11): (Stage.LOGIN, "Fsxs", Peer._start_ok),
    signature(10, 31): (Stage.TUNING, "BlB", Peer._tune_ok),
    signature(10, 40): (Stage.OPENING, "ssb", Peer._open),
    _CLOSE: (None, "BsBB", Peer._close),
    _CLOSE_OK: (None, "", Peer._close_ok),
}
