"""A relay in front of an AMQP broker that keeps what clients send, and reads the methods in it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from futurebroker.broker_adapters.frames import FrameReader, Incoming

#: the protocol header that a client sends before the first frame
_GREETING = 8


class Tap:
    """What clients sent through a relay, one buffer a connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent: list[bytearray] = []

    def methods(self) -> Iterator[Incoming]:
        """Every method and content that was sent, connection by connection."""
        for sent in self.sent:
            assert sent.startswith(b"AMQP")
            yield from FrameReader(131_072, 65_535).feed(bytes(sent[_GREETING:]))


@contextlib.contextmanager
def tap_on(url: str) -> Iterator[Tap]:
    """A relay in front of the broker at ``url``, on a thread of its own."""
    parts = urlsplit(url)
    tap = Tap("")
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    relays: set[asyncio.Task[object]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if kept is not None:
                    kept += data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        relays.add(task)
        try:
            there, back = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:  # the broker is being restarted: its client is to see that nobody answers
            writer.close()
            return
        tap.sent.append(bytearray())
        await asyncio.gather(copy(reader, back, tap.sent[-1]), copy(there, writer, None))

    async def serve() -> None:
        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        loops.append(asyncio.get_running_loop())
        place = f"{parts.username}:{parts.password}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        tap.url = urlunsplit(parts._replace(netloc=place))
        started.set()
        await stop.wait()
        server.close()
        await server.wait_closed()
        # Both ends of each are closed by now, or about to be.
        await asyncio.gather(*relays)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="tap")
    thread.start()
    try:
        assert started.wait(5)
        yield tap
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()
