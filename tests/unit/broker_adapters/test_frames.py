"""The frame codec: the same messages however the stream is cut, and nothing kept that is over its bounds."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from amqp.serialization import decode_properties_basic, loads
from hypothesis import given
from hypothesis import strategies as st

from futurebroker.broker_adapters.frames import (
    BASIC_DELIVER,
    BASIC_PUBLISH,
    DURABLE_PROPERTIES,
    HEARTBEAT,
    TRANSIENT_PROPERTIES,
    AmqpError,
    Deliverer,
    FrameReader,
    Incoming,
    OutputBuffer,
    Piece,
    Publisher,
    ack_frame,
    append_content,
    method_frame,
    route_of,
    signature,
    split_route,
)

FRAME_MAX = 4096


def published(queue: str, body: bytes, *, channel: int = 1, durable: bool = False) -> bytes:
    out: list[Piece] = []
    Publisher(channel, FRAME_MAX).append(out, queue, body, durable, True)
    return b"".join(out)


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + end


def header(size: int) -> bytes:
    return b"\x00\x3c\x00\x00" + size.to_bytes(8, "big") + b"\x00\x00"


items = st.one_of(
    st.builds(
        published,
        st.text(max_size=20),
        st.binary(max_size=64) | st.integers(0, 3 * FRAME_MAX).map(bytes),
        channel=st.integers(1, 3),
        durable=st.booleans(),
    ),
    st.just(HEARTBEAT),
    st.builds(lambda tag: ack_frame(2, tag, multiple=True), st.integers(0, 2**63)),
    st.builds(lambda text: method_frame(0, signature(10, 60), "s", (text,)), st.text(max_size=30)),
)


@given(st.lists(items, max_size=8), st.data())
def test_any_cut_of_the_stream_gives_the_same_messages(stream: list[bytes], data: st.DataObject) -> None:
    """A socket cuts where it likes; a message must never depend on that."""
    whole = b"".join(stream)
    expected = FrameReader(FRAME_MAX, 3).feed(whole)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    reader = FrameReader(FRAME_MAX, 3)
    parts = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
    assert [incoming for part in parts for incoming in reader.feed(part)] == expected


def test_a_stream_that_comes_byte_by_byte_is_read() -> None:
    """The slowest sender is still understood, with a body of several frames among others."""
    whole = published("q", b"a") + HEARTBEAT + published("q", b"b" * 9000) + published("r", b"")
    reader = FrameReader(FRAME_MAX, 1)
    got = [incoming for at in range(len(whole)) for incoming in reader.feed(whole[at : at + 1])]
    assert [incoming.body for incoming in got] == [b"a", b"b" * 9000, b""]


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=3 * FRAME_MAX)), min_size=1, max_size=6))
def test_contents_of_several_channels_may_interleave(messages: list[tuple[int, bytes]]) -> None:
    """AMQP allows frames of other channels between those of one body."""
    by_channel = {
        channel: list(
            _frames(b"".join(published("q", body, channel=channel) for at, body in messages if at == channel))
        )
        for channel in (1, 2, 3)
    }
    mixed = b"".join(one for row in itertools.zip_longest(*by_channel.values(), fillvalue=b"") for one in row)
    got = FrameReader(FRAME_MAX, 3).feed(mixed)
    for channel in (1, 2, 3):
        sent = [body for at, body in messages if at == channel]
        assert [incoming.body for incoming in got if incoming.channel == channel] == sent


def _frames(stream: bytes) -> list[bytes]:
    frames = []
    while stream:
        size = int.from_bytes(stream[3:7], "big") + 8
        frames.append(stream[:size])
        stream = stream[size:]
    return frames


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_garbage_is_refused_and_never_crashes(garbage: bytes, cuts: list[int]) -> None:
    """Whatever a stranger sends ends in AMQP's own error or in waiting for more."""
    reader = FrameReader(FRAME_MAX, 1)
    with contextlib.suppress(AmqpError):
        for a, b in itertools.pairwise([0, *sorted(cuts), 300]):
            reader.feed(garbage[a:b])


def test_a_frame_is_refused_by_its_announced_size_before_it_comes() -> None:
    """Seven bytes are enough to know; buffering up to 4 GiB first would hand our memory to anyone."""
    reader = FrameReader(FRAME_MAX, 1)
    with pytest.raises(AmqpError) as caught:
        reader.feed(frame(1, 0, b"")[:3] + (FRAME_MAX - 7).to_bytes(4, "big") + b"x")
    assert caught.value.code == 501


def test_a_body_over_the_bound_is_reported_at_its_header_and_skipped() -> None:
    """The sender hears of it at once, the channel stays in step, and none of the body is kept."""
    reader = FrameReader(FRAME_MAX, 2, max_body=5000)
    method = BASIC_PUBLISH + b"\x00\x00" + route_of("", "q") + b"\x00"
    got = reader.feed(frame(1, 1, method) + frame(2, 1, header(6000)))
    assert got == [Incoming(1, method, b"\x00\x00", None)]
    assert reader.feed(frame(3, 1, b"x" * 4000)) == []
    assert reader.feed(frame(3, 1, b"x" * 2000) + published("q", b"next"))[0].body == b"next"


def test_unfinished_bodies_are_bounded_for_all_channels_together() -> None:
    """Two thousand channels with one unfinished body each must not hold two thousand times the bound."""
    reader = FrameReader(FRAME_MAX, 2000, max_body=10_000)
    method = BASIC_PUBLISH + b"\x00\x00" + route_of("", "q") + b"\x00"
    stream = b"".join(
        frame(1, channel, method) + frame(2, channel, header(9000)) + frame(3, channel, b"x" * 4000)
        for channel in range(1, 2001)
    )
    with pytest.raises(AmqpError) as caught:
        reader.feed(stream)
    assert caught.value.code == 506


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(1, 0, b"\x00\x0a\x00\x0a", end=b"\x00"), 501),
        (frame(3, 1, b"body without a method"), 505),
        (frame(2, 1, header(1)), 505),
        (frame(9, 1, b""), 505),
        (frame(1, 9, b"\x00\x0a\x00\x0a"), 504),
        (frame(1, 1, b"\x00"), 502),
        (published("q", b"x", channel=0), 503),
        (frame(1, 1, BASIC_PUBLISH) + frame(2, 1, b"short"), 502),
        (frame(1, 1, BASIC_PUBLISH) + frame(1, 1, BASIC_PUBLISH), 505),
        (frame(1, 1, BASIC_PUBLISH) + frame(2, 1, header(1)) + frame(3, 1, b"xx"), 501),
    ],
)
def test_a_broken_stream_gets_amqps_own_code(stream: bytes, code: int) -> None:
    """The codes are what a stock client shows its user."""
    with pytest.raises(AmqpError) as caught:
        FrameReader(FRAME_MAX, 1).feed(stream)
    assert caught.value.code == code


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 20_000])
def test_a_publish_reads_in_py_amqp_as_it_was_written(size: int) -> None:
    """py-amqp's own decoder is the reference for what other brokers will understand."""
    body = bytes(size)
    (got,) = FrameReader(FRAME_MAX, 1).feed(published("fb1.x.cmd", body, durable=True))
    assert got.body == body
    assert loads("Bssbb", got.payload, 4)[0] == [0, "", "fb1.x.cmd", True, False]
    assert got.properties == DURABLE_PROPERTIES
    assert decode_properties_basic(got.properties, 0)[0] == {"content_type": "application/data", "delivery_mode": 2}


def test_a_delivery_reads_in_py_amqp_as_it_was_written() -> None:
    """Prepared heads must not mix up tags, flags or routes of one consumer's messages."""
    out: list[Piece] = []
    deliverer = Deliverer(7, "ctag", FRAME_MAX)
    for tag, redelivered, key in [(1, False, "a"), (2, True, "a"), (3, False, "b"), (4, False, "a")]:
        deliverer.append(out, tag, redelivered, route_of("ex", key), TRANSIENT_PROPERTIES, key.encode() * 5000)
    got = FrameReader(FRAME_MAX, 7).feed(b"".join(out))
    assert [loads("sLbss", incoming.payload, 4)[0] for incoming in got] == [
        ["ctag", 1, False, "ex", "a"],
        ["ctag", 2, True, "ex", "a"],
        ["ctag", 3, False, "ex", "b"],
        ["ctag", 4, False, "ex", "a"],
    ]
    assert all(incoming.payload[:4] == BASIC_DELIVER and incoming.channel == 7 for incoming in got)
    assert [incoming.body for incoming in got] == [b"a" * 5000, b"a" * 5000, b"b" * 5000, b"a" * 5000]


def test_unprepared_content_is_framed_as_well() -> None:
    """basic.return and basic.get-ok take the plain way."""
    out: list[Piece] = []
    append_content(out, 3, BASIC_DELIVER + b"\x00", b"\x00\x00", b"x" * 9000, FRAME_MAX)
    assert FrameReader(FRAME_MAX, 3).feed(b"".join(out)) == [
        Incoming(3, BASIC_DELIVER + b"\x00", b"\x00\x00", b"x" * 9000)
    ]


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_route_survives(exchange: str, key: str) -> None:
    """Exchange and key pass through the server as bytes; they must read the same at the end."""
    assert split_route(route_of(exchange, key)) == (exchange, key)


@pytest.mark.parametrize("route", [b"\x00", b"\x05ab\x00", b"\x00\x05ab", b"\x00\x00x", b"\x01\xff\x00"])
def test_a_cut_route_is_refused(route: bytes) -> None:
    """Names that run over the end would read a neighbour's bytes."""
    with pytest.raises(AmqpError):
        split_route(route)


def test_a_name_over_255_bytes_is_refused() -> None:
    """AMQP has one byte for the length of a name."""
    with pytest.raises(ValueError, match="255"):
        route_of("", "x" * 256)


@given(st.lists(st.binary(max_size=50), max_size=30), st.lists(st.integers(1, 40) | st.none(), max_size=40))
def test_output_leaves_in_order_however_little_the_socket_takes(pieces: list[bytes], takes: list[int | None]) -> None:
    """A frame that broke off in the middle must go on where it stopped."""
    sent = bytearray()
    turns = iter(takes)

    def send(data: Piece) -> int:
        take = next(turns, 1000)
        if take is None:
            raise BlockingIOError
        sent.extend(data[:take])
        return min(take, len(data))

    output = OutputBuffer()
    written = 0
    for piece in pieces:
        output.pieces.append(piece)
        written += output.write(send)
    while output:
        written += output.write(send)
    assert bytes(sent) == b"".join(pieces)
    assert written == len(sent)


def test_a_long_output_is_taken_in_batches() -> None:
    """More pieces than one batch keep their order, also when some are added in between."""
    output = OutputBuffer()
    output.pieces += [number.to_bytes(4, "big") for number in range(2500)]
    sent = bytearray()
    room = [5000]

    def send(data: Piece) -> int:
        taken = min(room[0], len(data))
        if not taken:
            raise BlockingIOError
        room[0] -= taken
        sent.extend(data[:taken])
        return taken

    output.write(send)
    output.pieces.append((2500).to_bytes(4, "big"))
    room[0] = 100_000
    output.write(send)
    assert not output
    assert bytes(sent) == b"".join(number.to_bytes(4, "big") for number in range(2501))
