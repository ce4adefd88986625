"""AMQP 0-9-1 frames to and from bytes: the one codec of the client link and of the embedded server.

Reading is incremental: `FrameReader.feed` takes whatever the socket gave and returns the methods that are complete,
each with its content. A frame is refused by its announced size before its payload is kept, and so is a body. Writing
appends pieces to a list that is joined once, at the socket: what repeats from message to message (method frame, head
of the content header, properties) is made once and reused.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import msgspec
from amqp.serialization import dumps

FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
FRAME_OVERHEAD = 8  #: bytes of a frame beside its payload
DEFAULT_FRAME_MAX = 131_072
MAX_MESSAGE = 16 * 1024 * 1024

# glibc gives blocks of 128 KiB and more back to the kernel at once until it has seen a larger one freed. Ours are of
# that size, and getting the pages again for each cost as much as all the rest of relaying a 64 KiB message.
bytes(4 * 1024 * 1024)

Piece = bytes | memoryview

_FRAME_HEAD = Struct(">BHI")
_CONTENT_HEAD = Struct(">BHIHHQ")
_unpack_frame_head = _FRAME_HEAD.unpack_from
_unpack_content_head = _CONTENT_HEAD.unpack_from
_pack_u64 = Struct(">Q").pack
_pack_u32 = Struct(">I").pack
_END_BYTE = END[0]
#: longer properties hold something that differs from message to message, as ids do
_CACHED_PROPERTIES = 64
#: length of a content header's payload before its properties: class, weight, body size
_HEADER_FIXED = 12


def signature(class_id: int, method_id: int) -> bytes:
    """The first four bytes of a method's payload, by which methods are told apart here."""
    return bytes((class_id >> 8, class_id & 255, method_id >> 8, method_id & 255))


BASIC_PUBLISH = signature(60, 40)
BASIC_RETURN = signature(60, 50)
BASIC_DELIVER = signature(60, 60)
BASIC_GET_OK = signature(60, 71)
BASIC_ACK = signature(60, 80)
BASIC_NACK = signature(60, 120)
_WITH_CONTENT = frozenset((BASIC_PUBLISH, BASIC_RETURN, BASIC_DELIVER, BASIC_GET_OK))


class AmqpError(Exception):
    """The peer broke the protocol, or asks for what cannot be; carries AMQP's own reply code."""

    _NAMES = {
        311: "CONTENT_TOO_LARGE",
        320: "CONNECTION_FORCED",
        403: "ACCESS_REFUSED",
        404: "NOT_FOUND",
        405: "RESOURCE_LOCKED",
        406: "PRECONDITION_FAILED",
        501: "FRAME_ERROR",
        502: "SYNTAX_ERROR",
        503: "COMMAND_INVALID",
        504: "CHANNEL_ERROR",
        505: "UNEXPECTED_FRAME",
        506: "RESOURCE_ERROR",
        530: "NOT_ALLOWED",
        540: "NOT_IMPLEMENTED",
        541: "INTERNAL_ERROR",
    }

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    @property
    def ends_connection(self) -> bool:
        """Whether AMQP closes the connection for it, and not only the channel."""
        return self.code not in (311, 313, 403, 404, 405, 406)

    @property
    def reply_text(self) -> str:
        """The text a close method carries; at most 255 bytes fit."""
        return f"{self._NAMES.get(self.code, 'ERROR')} - {self.text}".encode(errors="replace")[:255].decode(
            errors="ignore"
        )

    def __str__(self) -> str:
        return f"{self.reply_text} ({self.code})"


class Incoming(msgspec.Struct, gc=False):
    """A complete method that arrived."""

    channel: int
    payload: bytes  #: the method frame's payload; its first four bytes are the `signature`
    properties: bytes | None  #: property flags and values as they arrived; None for a method without content
    body: bytes | None  #: None for a method without content, and for a body over the bound, which was not kept


class _Content:
    """A body of which some frames are still missing."""

    __slots__ = ("payload", "properties", "body", "missing", "is_kept")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.properties: bytes | None = None
        self.body = bytearray()
        self.missing = 0
        self.is_kept = True


class FrameReader:
    """Turns a stream of bytes, in pieces of any size, into methods with their contents."""

    __slots__ = (
        "frame_max",
        "channel_max",
        "max_body",
        "max_partial",
        "_pieces",
        "_held",
        "_need",
        "_open",
        "_partial",
    )

    def __init__(self, frame_max: int, channel_max: int, max_body: int = MAX_MESSAGE) -> None:
        self.frame_max = frame_max  #: may be raised between two calls of `feed`
        self.channel_max = channel_max
        self.max_body = max_body
        self.max_partial = 4 * max_body  #: bytes of unfinished bodies kept for one connection
        self._pieces: list[bytes] = []
        self._held = 0
        self._need = FRAME_OVERHEAD
        self._open: dict[int, _Content] = {}
        self._partial = 0

    def feed(self, data: bytes) -> list[Incoming]:
        """Take ``data`` and return what it completed, in order of arrival.

        Raises:
            AmqpError: the bytes are no AMQP, or a frame is over the bound; nothing more can be read after it.
        """
        if self._pieces:
            self._pieces.append(data)
            self._held += len(data)
            if self._held < self._need:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        done: list[Incoming] = []
        at = self._read_frames(data, done)
        rest = len(data) - at
        if rest:
            self._pieces.append(data[at:] if at else data)
            self._held = rest
        return done

    def _read_frames(self, data: bytes, done: list[Incoming]) -> int:
        """Append what is complete in ``data`` to ``done``; return where the first unfinished frame begins.

        The inner branch reads a method, a header and one body frame that lie side by side, as nearly all messages do,
        without keeping state in between.
        """
        at, end = 0, len(data)
        most = self.frame_max - FRAME_OVERHEAD
        while end - at >= FRAME_OVERHEAD:
            kind, channel, size = _unpack_frame_head(data, at)
            if size > most:
                raise AmqpError(501, f"a frame of {size} bytes is over the negotiated {self.frame_max}")
            stop = at + 7 + size
            if stop >= end:
                self._need = size + FRAME_OVERHEAD
                return at
            if data[stop] != _END_BYTE:
                raise AmqpError(501, "a frame does not end where it said it would")
            if kind == FRAME_METHOD and data[at + 7 : at + 11] in _WITH_CONTENT and end - stop > 27:
                kind2, channel2, size2, _, _, length = _unpack_content_head(data, stop + 1)
                stop2 = stop + 8 + size2
                stop3 = stop2 + 8 + length
                if kind2 == FRAME_HEADER and channel2 == channel and 0 < length <= most and stop3 < end:
                    kind3, channel3, size3 = _unpack_frame_head(data, stop2 + 1)
                    if (
                        kind3 == FRAME_BODY
                        and size3 == length
                        and channel3 == channel
                        and 0 < channel <= self.channel_max
                        and size2 >= _HEADER_FIXED
                        and channel not in self._open
                        and length <= self.max_body
                        and data[stop2] == _END_BYTE == data[stop3]
                    ):
                        done.append(
                            Incoming(channel, data[at + 7 : stop], data[stop + 20 : stop2], data[stop2 + 8 : stop3])
                        )
                        at = stop3 + 1
                        continue
            self._take_frame(kind, channel, data[at + 7 : stop], done)
            at = stop + 1
        self._need = FRAME_OVERHEAD
        return at

    def _take_frame(self, kind: int, channel: int, payload: bytes, done: list[Incoming]) -> None:
        """One frame of any kind, with the state that contents in several frames need."""
        if kind == FRAME_HEARTBEAT:
            return
        if channel > self.channel_max:
            raise AmqpError(504, f"channel {channel} is over the negotiated {self.channel_max}")
        content = self._open.get(channel)
        if kind == FRAME_METHOD and content is None:
            if len(payload) < 4:
                raise AmqpError(502, "a method frame without a method")
            if payload[:4] not in _WITH_CONTENT:
                done.append(Incoming(channel, payload, None, None))
            elif channel == 0:
                raise AmqpError(503, "content on channel 0")
            else:
                self._keep(len(payload))
                self._open[channel] = _Content(payload)
        elif kind == FRAME_HEADER and content is not None and content.properties is None:
            self._take_header(channel, content, payload, done)
        elif kind == FRAME_BODY and content is not None and content.properties is not None:
            self._take_body(channel, content, payload, done)
        else:
            raise AmqpError(505, f"a frame of type {kind} on channel {channel} is out of order")

    def _take_header(self, channel: int, content: _Content, payload: bytes, done: list[Incoming]) -> None:
        if len(payload) < _HEADER_FIXED + 2:
            raise AmqpError(502, "a content header is too short")
        content.missing = int.from_bytes(payload[4:12], "big")
        content.properties = payload[12:]
        self._keep(len(content.properties))
        if content.missing > self.max_body:
            # reported now, so that the sender hears of it before it has sent everything; the frames are skipped
            content.is_kept = False
            done.append(Incoming(channel, content.payload, content.properties, None))
        elif content.missing == 0:
            self._finish(channel, content, done)

    def _take_body(self, channel: int, content: _Content, payload: bytes, done: list[Incoming]) -> None:
        content.missing -= len(payload)
        if content.missing < 0:
            raise AmqpError(501, "a body is longer than its header said")
        if content.is_kept:
            self._keep(len(payload))
            content.body += payload
        if content.missing == 0:
            self._finish(channel, content, done)

    def _keep(self, size: int) -> None:
        self._partial += size
        if self._partial > self.max_partial:
            raise AmqpError(506, f"over {self.max_partial} bytes of unfinished messages")

    def _finish(self, channel: int, content: _Content, done: list[Incoming]) -> None:
        del self._open[channel]
        properties = content.properties or b""
        self._partial -= len(content.payload) + len(properties) + len(content.body)
        if content.is_kept:
            done.append(Incoming(channel, content.payload, properties, bytes(content.body)))


# -- writing ---------------------------------------------------------------------------------------------------------


def method_frame(channel: int, method: bytes, layout: str = "", values: tuple[Any, ...] = ()) -> bytes:
    """The frame of a method without content; ``layout`` is py-amqp's format of its arguments."""
    payload = method + (dumps(layout, values) if layout else b"")
    return _FRAME_HEAD.pack(FRAME_METHOD, channel, len(payload)) + payload + END


def ack_frame(channel: int, tag: int, *, multiple: bool, method: bytes = BASIC_ACK) -> bytes:
    """The frame of basic.ack or, with ``method``, another method of a tag and a bit."""
    return (
        _FRAME_HEAD.pack(FRAME_METHOD, channel, 13) + method + _pack_u64(tag) + (b"\x01" if multiple else b"\x00") + END
    )


def short_string(text: str) -> bytes:
    """A string of at most 255 bytes as AMQP writes it."""
    encoded = text.encode()
    if len(encoded) > 255:
        raise ValueError(f"{text[:40]!r}... is over the 255 bytes a name may have")
    return bytes((len(encoded),)) + encoded


def route_of(exchange: str, routing_key: str) -> bytes:
    """Exchange and routing key as publish, deliver and return all write them."""
    return short_string(exchange) + short_string(routing_key)


def split_route(route: bytes) -> tuple[str, str]:
    """The exchange and the routing key of `route_of`."""
    first = route[0] + 1
    if len(route) < first + 1 or len(route) != first + 1 + route[first]:
        raise AmqpError(502, "a name runs over the end of its method")
    try:
        return route[1:first].decode(), route[first + 1 :].decode()
    except UnicodeDecodeError:
        raise AmqpError(502, "a name is not UTF-8") from None


#: properties of what this project sends: application/data, transient or persistent, nothing else
TRANSIENT_PROPERTIES = b"\x90\x00" + short_string("application/data") + b"\x01"
DURABLE_PROPERTIES = b"\x90\x00" + short_string("application/data") + b"\x02"


def content_head(channel: int, properties: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the body size in a content header; the second goes on into the body frame."""
    head = _FRAME_HEAD.pack(FRAME_HEADER, channel, _HEADER_FIXED + len(properties)) + b"\x00\x3c\x00\x00"
    return head, properties + END + bytes((FRAME_BODY, channel >> 8, channel & 255))


def append_body(out: list[Piece], tail: bytes, body: bytes, frame_max: int) -> None:
    """Append body size, ``tail`` (from `content_head`) and ``body`` in as many frames as it takes."""
    size = len(body)
    if 0 < size <= frame_max - FRAME_OVERHEAD:
        out += (_pack_u64(size), tail, _pack_u32(size), body, END)
        return
    out.append(_pack_u64(size))
    if not size:
        out.append(tail[:-3])
        return
    view, most = memoryview(body), frame_max - FRAME_OVERHEAD
    for at in range(0, size, most):
        part = view[at : at + most]
        out += (tail if at == 0 else tail[-3:], _pack_u32(len(part)), part, END)


class Publisher:
    """Writes publishes to the default exchange on one channel."""

    __slots__ = ("_channel", "_frame_max", "_heads", "_most")

    def __init__(self, channel: int, frame_max: int) -> None:
        self._channel = channel
        self._frame_max = frame_max
        #: bytes of a body that fits into one frame
        self._most = frame_max - FRAME_OVERHEAD
        self._heads: dict[tuple[str, bool, bool], tuple[bytes, bytes]] = {}

    def append(self, out: list[Piece], queue: str, body: bytes, durable: bool, mandatory: bool) -> None:
        """Append the frames that publish ``body`` to ``queue``."""
        try:
            head, tail = self._heads[queue, durable, mandatory]
        except KeyError:
            head, tail = self._make_head(queue, durable, mandatory)
        size = len(body)
        if 0 < size <= self._most:
            out += (head, _pack_u64(size), tail, _pack_u32(size), body, END)
        else:
            out.append(head)
            append_body(out, tail, body, self._frame_max)

    def _make_head(self, queue: str, durable: bool, mandatory: bool) -> tuple[bytes, bytes]:
        payload = BASIC_PUBLISH + b"\x00\x00" + route_of("", queue) + (b"\x01" if mandatory else b"\x00")
        method = _FRAME_HEAD.pack(FRAME_METHOD, self._channel, len(payload)) + payload + END
        head, tail = content_head(self._channel, DURABLE_PROPERTIES if durable else TRANSIENT_PROPERTIES)
        if len(self._heads) >= 4096:  # inboxes come and go; their names must not add up
            self._heads.clear()
        self._heads[queue, durable, mandatory] = method + head, tail
        return method + head, tail


class Deliverer:
    """Writes deliveries of one consumer."""

    __slots__ = ("_channel", "_frame_max", "_heads", "_most", "_tag")

    def __init__(self, channel: int, consumer_tag: str, frame_max: int) -> None:
        self._channel = channel
        self._frame_max = frame_max
        self._most = frame_max - FRAME_OVERHEAD
        self._tag = short_string(consumer_tag)
        self._heads: dict[tuple[bytes, bytes, bool], tuple[bytes, bytes, bytes]] = {}

    def append(
        self, out: list[Piece], tag: int, redelivered: bool, route: bytes, properties: bytes, body: bytes
    ) -> None:
        """Append the frames that deliver ``body`` under the delivery tag ``tag``."""
        try:
            before, after, tail = self._heads[route, properties, redelivered]
        except KeyError:
            before, after, tail = self._make_head(route, properties, redelivered)
        size = len(body)
        if 0 < size <= self._most:
            out += (before, _pack_u64(tag), after, _pack_u64(size), tail, _pack_u32(size), body, END)
        else:
            out += (before, _pack_u64(tag), after)
            append_body(out, tail, body, self._frame_max)

    def _make_head(self, route: bytes, properties: bytes, redelivered: bool) -> tuple[bytes, bytes, bytes]:
        start = BASIC_DELIVER + self._tag
        flag = b"\x01" if redelivered else b"\x00"
        before = _FRAME_HEAD.pack(FRAME_METHOD, self._channel, len(start) + 9 + len(route)) + start
        head, tail = content_head(self._channel, properties)
        if len(self._heads) >= 256:
            self._heads.clear()
        heads = before, flag + route + END + head, tail
        if len(properties) <= _CACHED_PROPERTIES:
            self._heads[route, properties, redelivered] = heads
        return heads


def append_content(
    out: list[Piece], channel: int, method: bytes, properties: bytes, body: bytes, frame_max: int
) -> None:
    """Append a method with content that is sent too seldom to be prepared: basic.return, basic.get-ok."""
    head, tail = content_head(channel, properties)
    out += (_FRAME_HEAD.pack(FRAME_METHOD, channel, len(method)) + method + END, head)
    append_body(out, tail, body, frame_max)


class OutputBuffer:
    """Pieces that wait for a socket; the owner appends to `pieces` and calls `write`."""

    __slots__ = ("pieces", "rest", "_at")

    #: pieces taken in one go, and the bytes from which on joining them would cost more than it saves
    _BATCH = 1000
    _LARGE = 8192

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        #: what the socket didn't take
        self.rest: Piece = b""
        self._at = 0

    def __bool__(self) -> bool:
        return bool(self.pieces or self.rest)

    def write(self, send: Callable[[Piece], int]) -> int:
        """Give everything to ``send`` until it raises; returns the bytes it took.

        A `BlockingIOError` or SSL's wish to wait ends it quietly; `bool(buffer)` then says that something is left.
        """
        written = 0
        try:
            while True:
                data = self.rest
                if not data:
                    if not self.pieces:
                        return written
                    data = self.rest = self._take()
                sent = send(data)
                written += sent
                self.rest = b"" if sent == len(data) else memoryview(data)[sent:]
        except (BlockingIOError, InterruptedError):
            return written

    def _take(self) -> Piece:
        pieces, at = self.pieces, self._at
        if len(pieces) - at <= self._BATCH:
            data = b"".join(pieces[at:] if at else pieces)
            pieces.clear()
            self._at = 0
            return data
        self._at = at + self._BATCH
        return b"".join(pieces[at : self._at])

    def clear(self) -> None:
        """Drop what waits; the connection is gone."""
        self.pieces.clear()
        self.rest = b""
        self._at = 0
