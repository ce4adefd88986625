"""What a peer that logged in and then misbehaves does to the embedded broker: nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from amqp.serialization import dumps
from hypothesis import given, settings
from hypothesis import strategies as st

from futurebroker.broker_adapters.embedded.channel import METHODS
from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from futurebroker.broker_adapters.frames import PROTOCOL_HEADER, method_frame, signature
from tests.integration.brokers import broker_here, connect, run


async def log_in(broker: EmbeddedBroker) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with one open channel, and the means to send anything on it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    response = f"\x00{broker.user}\x00{broker.password}"
    writer.write(PROTOCOL_HEADER)
    writer.write(method_frame(0, signature(10, 11), "FsSs", ({}, "PLAIN", response, "en_US")))
    writer.write(method_frame(0, signature(10, 31), "BlB", (0, 0, 0)))
    writer.write(method_frame(0, signature(10, 40), "ssb", ("/", "", False)))
    await reader.readuntil(method_frame(0, signature(10, 41), "s", ("",)))
    writer.write(method_frame(1, signature(20, 10), "s", ("",)))
    return reader, writer


async def say_goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Close in order; returns everything the broker still said."""
    writer.write(method_frame(0, signature(10, 50), "BsBB", (200, "", 0, 0)))
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said


tables = st.dictionaries(
    st.sampled_from(["x-expires", "x-max-length", "x-single-active-consumer", "x-priority", "x-overflow", "é"]),
    st.integers(-(2**31), 2**40) | st.booleans() | st.text(max_size=5) | st.none() | st.lists(st.integers(0, 5)),
    max_size=3,
)
values = {
    "b": st.booleans(),
    "B": st.integers(0, 2**16 - 1),
    "l": st.integers(0, 2**32 - 1),
    "L": st.integers(0, 2**64 - 1),
    "s": st.text(max_size=8) | st.sampled_from(["q", "amq.direct", "\ud800"]),
    "F": tables,
}


def well_formed(method: bytes) -> st.SearchStrategy[bytes]:
    layout = METHODS[method][0]
    return st.tuples(*(values[part] for part in layout)).map(lambda drawn: method_frame(1, method, layout, drawn))


def cut_or_changed(method: bytes) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=40).map(
        lambda payload: b"\x01\x00\x01" + (4 + len(payload)).to_bytes(4, "big") + method + payload + b"\xce"
    )


methods = st.sampled_from(sorted(METHODS))
traffic = st.lists(methods.flatmap(well_formed) | methods.flatmap(cut_or_changed), min_size=1, max_size=12)


@settings(max_examples=150)
@given(traffic)
def test_no_methods_whatever_disturb_the_broker(stream: list[bytes]) -> None:
    """Each is served or refused; nothing escapes to the event loop, and others are served as before."""
    escaped: list[dict[str, Any]] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
        async with broker_here() as broker:
            reader, writer = await log_in(broker)
            writer.write(b"".join(stream))
            await say_goodbye(reader, writer)
            assert not broker.entities.gauge.used

    run(test)
    assert escaped == []


@pytest.mark.parametrize("name", ["\ud800", "x" * 200])
def test_a_refusal_that_repeats_a_strange_name_is_sent_all_the_same(name: str) -> None:
    """The text of an error holds what the peer sent, which need not be proper Unicode."""

    async def test() -> None:
        async with broker_here() as broker:
            reader, writer = await log_in(broker)
            writer.write(b"\x01\x00\x01" + _frame_rest(signature(50, 30) + dumps("Bsb", (0, name, False))))
            assert b"NOT_FOUND - no queue" in await say_goodbye(reader, writer)

    run(test)


def _frame_rest(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload + b"\xce"


def test_strangers_who_never_log_in_do_not_keep_others_out() -> None:
    """Three hundred open sockets that say nothing, and a client is served at once."""

    async def test() -> None:
        async with broker_here() as broker:
            silent = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(300)]
            client = await connect(broker.url)
            client.link.close()
            for _, writer in silent:
                writer.close()
            for _, writer in silent:
                await writer.wait_closed()

    run(test)


def test_wrong_logins_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A client with another secret tries again and again; the log must not fill with it."""

    async def test() -> None:
        async with broker_here() as broker:
            for _ in range(5):
                with pytest.raises(ConnectionError):
                    await connect(broker.url, secret=b"another secret!!")
            assert broker.refused_logins == 5

    run(test)
    assert [record.getMessage() for record in caplog.records if record.name == "futurebroker.broker"] == [
        "refused a connection from 127.0.0.1: its password does not follow from this secret"
    ]
