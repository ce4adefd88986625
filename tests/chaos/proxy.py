"""A TCP proxy inside this process, whose wires can be cut, held and mended while it runs.

A cut closes what is connected and turns away who calls; a held wire stays up and passes nothing on, as when a machine
loses its power: nobody is told, and nothing is lost before the other end gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

#: bytes passed on at a time
_PIECE = 65536


class Wire:
    """The way to one place, through a port of its own; made by `Switchboard.wire`."""

    def __init__(self, board: Switchboard, host: str, port: int) -> None:
        self.port = 0
        self._board = board
        self._place = (host, port)
        self._server: asyncio.Server | None = None
        self._is_cut = False
        self._flow = asyncio.Event()
        self._flow.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._joined: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Close what is connected, and turn away whoever calls until `mend`."""
        self._board.run(self._cut())

    def hold(self) -> None:
        """Pass nothing on until `mend`; connections stay."""
        self._board.run(self._hold())

    def mend(self) -> None:
        """Be a wire again; what was held goes on."""
        self._board.run(self._mend())

    async def open(self) -> None:
        """Take calls; on the board's loop."""
        self._server = await asyncio.start_server(self._called, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Hang up for good; on the board's loop."""
        assert self._server is not None
        self._server.close()
        await self._cut()
        self._flow.set()
        for task in tuple(self._joined):
            task.cancel()
        await asyncio.gather(*self._joined, return_exceptions=True)

    async def _cut(self) -> None:
        self._is_cut = True
        for end in tuple(self._ends):
            end.transport.abort()

    async def _hold(self) -> None:
        self._flow.clear()

    async def _mend(self) -> None:
        self._is_cut = False
        self._flow.set()

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._joined.add(task)
        self._ends.add(writer)
        try:
            if not self._is_cut:
                await self._flow.wait()
                with contextlib.suppress(OSError):
                    await self._join(reader, writer)
        except asyncio.CancelledError:  # the board closes; asyncio would log it
            pass
        finally:
            writer.transport.abort()
            self._ends.discard(writer)
            self._joined.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._place)
        self._ends.add(far_writer)
        pumps = [
            asyncio.ensure_future(self._pump(reader, far_writer)),
            asyncio.ensure_future(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            far_writer.transport.abort()
            self._ends.discard(far_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            await self._flow.wait()
            writer.write(data)
            await writer.drain()


class Switchboard:
    """The thread that all wires of a run live on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._wires: list[Wire] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="switchboard")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` on the wires' thread."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def wire(self, host: str, port: int) -> Wire:
        """A new way to ``host:port``."""
        wire = Wire(self, host, port)
        self.run(wire.open())
        self._wires.append(wire)
        return wire

    def close(self) -> None:
        """Close all wires and end the thread."""
        for wire in self._wires:
            self.run(wire.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
