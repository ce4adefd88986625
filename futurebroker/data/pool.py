"""Fetches values from data servers over connections that are kept for a while, and puts values there.

All of it blocks: call it from a thread that may wait. A server that can't be reached is remembered, so that who asks
again isn't held up again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable

from futurebroker.data.channel import PIECE_BYTES, Channel, Credentials, Found, Get, Kept, Put
from futurebroker.data.names import is_sealed
from futurebroker.data.reuse import FreedFiles, begin_file
from futurebroker.data.sealed import write_all, write_sealed
from futurebroker.exceptions import ProtocolError

#: connections kept to all servers together, and to each; more are made when needed and closed after use
KEPT = 32
KEPT_EACH = 4
#: seconds an idle connection is kept; less than a server would
IDLE = 30.0
#: seconds to connect, and before a server that could not be reached is tried again
CONNECT_TIMEOUT = 2.0
UNREACHABLE = 60.0
#: times a value is asked for on, where its connection broke
RESUMES = 3
#: bytes from which memory is asked for in huge pages: fewer faults
_HUGE = 4 * 1024 * 1024


class MissingError(OSError):
    """The server doesn't have the value (any more)."""


class UnreachableError(OSError):
    """The server can't be reached from here, or isn't of our cluster."""


class Pool:
    """See the top of this file; may be used from any threads at once.

    Args:
        freed: files in memory that `fetch_to` may write again.
    """

    def __init__(self, credentials: Credentials, freed: FreedFiles | None = None) -> None:
        self._credentials = credentials
        self._freed = freed
        self._idle: dict[str, list[tuple[float, Channel]]] = {}
        self._unreachable: dict[str, float] = {}
        self._lock = threading.Lock()
        self._closed = False
        #: bytes fetched and connections made since the start
        self.fetched = self.connections = 0

    def may_reach(self, address: str) -> bool:
        """Whether to try a server; False for none, and for a while after it could not be reached."""
        with self._lock:
            return bool(address) and self._unreachable.get(address, 0.0) <= time.monotonic()

    def close(self) -> None:
        """Close what is idle; what is in use is closed after use."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for channels in idle.values():
            for _, channel in channels:
                channel.close()

    # -- fetching ---------------------------------------------------------------------------------------------------

    def fetch(self, address: str, key: str) -> memoryview:
        """The bytes of a value, writable, in memory of this process.

        Raises:
            MissingError, UnreachableError: see there.
            OSError: it broke off, more than once.
        """
        place: list[memoryview] = []

        def begin(nbytes: int) -> None:
            memory = mmap.mmap(-1, max(1, nbytes))
            if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # the kernel has none
                    memory.madvise(mmap.MADV_HUGEPAGE)
            place.append(memoryview(memory)[:nbytes])

        def fill(channel: Channel, offset: int) -> Iterable[int]:
            view = place[0][offset:]
            while view:
                piece = view[: 8 * PIECE_BYTES]
                channel.receive_data(piece, offset)
                offset += len(piece)
                view = view[len(piece) :]
                yield len(piece)

        self._resume(address, key, begin, fill)
        return place[0]

    def fetch_to(self, address: str, key: str, path: str) -> int:
        """Write a value to a new file, with checksums if its name is that of such a file; its bytes.

        Raises:
            As `fetch`, and OSError where the file can't be written; nothing is left of it.
        """
        if is_sealed(path):
            return self._fetch_sealed(address, key, path)
        number, size = -1, 0
        buffer = memoryview(bytearray(PIECE_BYTES))

        def begin(nbytes: int) -> None:
            nonlocal number, size
            number, size = begin_file(path, nbytes, self._freed), nbytes

        def fill(channel: Channel, offset: int) -> Iterable[int]:
            # By a buffer that stays in the processor's cache: a map of the file would cost more, in page faults.
            os.lseek(number, offset, os.SEEK_SET)
            while offset < size:
                piece = buffer[: min(PIECE_BYTES - offset % PIECE_BYTES, size - offset)]
                channel.receive_data(piece, offset)
                write_all(number, piece)
                offset += len(piece)
                yield len(piece)

        try:
            return self._resume(address, key, begin, fill)
        except BaseException:
            if number >= 0:
                os.unlink(path)
            raise
        finally:
            if number >= 0:
                os.close(number)

    def _fetch_sealed(self, address: str, key: str, path: str) -> int:
        def pieces() -> Iterable[memoryview]:
            channel, found = self._ask(address, Get(key))
            with contextlib.ExitStack() as stack:
                stack.callback(channel.close)
                buffer = memoryview(bytearray(PIECE_BYTES))
                for start in range(0, found.nbytes, len(buffer)):
                    piece = buffer[: min(len(buffer), found.nbytes - start)]
                    channel.receive_data(piece, start)
                    self.fetched += len(piece)
                    yield piece
                stack.pop_all()
            self._keep(address, channel)

        return write_sealed(path, pieces())

    def _resume(
        self,
        address: str,
        key: str,
        begin: Callable[[int], None],
        fill: Callable[[Channel, int], Iterable[int]],
    ) -> int:
        """Ask for a value, and on from where it broke off, as long as it is the same attempt's; its bytes."""
        nbytes, attempt, offset, broken = -1, -1, 0, 0
        while True:
            # After a break from the piece on that was not whole.
            channel, found = self._ask(address, Get(key, offset, attempt))
            try:
                if nbytes < 0:
                    nbytes, attempt = found.nbytes, found.attempt
                    begin(nbytes)
                elif nbytes != found.nbytes:
                    raise MissingError(f"{key} is another value than before")
                for got in fill(channel, offset):
                    offset += got
                    self.fetched += got
            except (ConnectionError, TimeoutError):
                channel.close()
                broken += 1
                if broken > RESUMES:
                    raise
                continue
            except BaseException:
                channel.close()
                raise
            self._keep(address, channel)
            return nbytes

    # -- putting ----------------------------------------------------------------------------------------------------

    def put(self, address: str, nbytes: int, pieces: Iterable[memoryview]) -> str:
        """Have a server keep ``nbytes`` bytes in a file; its path there.

        Raises:
            UnreachableError: see there.
            OSError: it can't keep them, or the connection broke.
        """
        channel = self._connect(address)
        try:
            channel.send(Put(nbytes))
            channel.send_data(_evenly(pieces))
            answer = channel.receive(60.0)
        except BaseException:
            channel.close()
            raise
        self._keep(address, channel)
        if not isinstance(answer, Kept) or not answer.path:
            raise OSError(answer.reason if isinstance(answer, Kept) else "not an answer to what was put")
        return answer.path

    # -- connections ------------------------------------------------------------------------------------------------

    def _ask(self, address: str, request: Get) -> tuple[Channel, Found]:
        """Send a request on a connection that is there, or on a new one if that turns out to be closed."""
        while True:
            channel = self._take_idle(address)
            is_new = channel is None
            if channel is None:
                channel = self._connect(address)
            try:
                channel.send(request)
                found = channel.receive()
            except (OSError, ProtocolError) as error:
                channel.close()
                if is_new:
                    raise error if isinstance(error, OSError) else OSError(str(error)) from error
                continue
            if not isinstance(found, Found):
                channel.close()
                raise OSError(f"a {type(found).__name__} where an answer should be")
            if found.nbytes < 0:
                self._keep(address, channel)
                raise MissingError(f"{request.key} isn't there")
            return channel, found

    def _take_idle(self, address: str) -> Channel | None:
        late: list[Channel] = []
        taken = None
        with self._lock:
            before = time.monotonic() - IDLE
            for place, channels in list(self._idle.items()):
                late += [channel for since, channel in channels if since < before]
                fresh = [(since, channel) for since, channel in channels if since >= before]
                if place == address and fresh:
                    taken = fresh.pop()[1]
                if fresh:
                    self._idle[place] = fresh
                else:
                    del self._idle[place]
        for channel in late:
            channel.close()
        return taken

    def _connect(self, address: str) -> Channel:
        try:
            channel = Channel.connect(address, self._credentials, CONNECT_TIMEOUT)
        except (OSError, ProtocolError, ValueError) as error:
            with self._lock:
                self._unreachable[address] = time.monotonic() + UNREACHABLE
            raise UnreachableError(f"{address} can't be reached: {error}") from error
        self.connections += 1
        return channel

    def _keep(self, address: str, channel: Channel) -> None:
        with self._lock:
            channels = self._idle.setdefault(address, [])
            if not self._closed and len(channels) < KEPT_EACH and sum(map(len, self._idle.values())) < KEPT:
                channels.append((time.monotonic(), channel))
                return
        channel.close()


def _evenly(pieces: Iterable[memoryview]) -> Iterable[memoryview]:
    """The same bytes in pieces of `PIECE_BYTES`, but for the last: each goes under one code."""
    rest = bytearray()
    for piece in pieces:
        if rest:
            take = min(PIECE_BYTES - len(rest), len(piece))
            rest += piece[:take]
            piece = piece[take:]
            if len(rest) == PIECE_BYTES:
                yield memoryview(bytes(rest))
                rest.clear()
        whole = len(piece) - len(piece) % PIECE_BYTES
        if whole and not rest:
            yield piece[:whole]
            piece = piece[whole:]
        rest += piece
    if rest:
        yield memoryview(bytes(rest))
