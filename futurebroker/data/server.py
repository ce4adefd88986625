"""Serves a store's values to those who can connect: one thread accepts, and each connection has one of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from futurebroker.data.channel import PIECE_BYTES, Channel, Credentials, Found, Get, Kept, Put
from futurebroker.data.names import is_sealed
from futurebroker.data.reuse import FreedFiles, begin_file
from futurebroker.data.sealed import Contents, DamagedFileError, open_for_reading, seal_in_place, write_all
from futurebroker.exceptions import ProtocolError

logger = logging.getLogger("futurebroker.data")

#: connections served at a time; who comes beyond them takes another way
CONNECTIONS = 64
#: seconds a connection may stand idle
IDLE = 120.0
#: seconds after which what was put and that nobody took over is deleted
UNCLAIMED = 600.0


@dataclass(frozen=True, slots=True)
class Source:
    """A value that may be sent: bytes, or a file."""

    nbytes: int
    data: bytes | None
    path: str
    attempt: int = 0


class DataServer:
    """See the top of this file.

    Args:
        host: where to listen; nobody else is reached by it.
        find: gives the value of a key, from any thread; None: it isn't here.
        new_path: a path for a value of so many bytes that is put here.
        damaged: told of a key and its file when that turns out to be damaged, from any thread.
        freed: files in memory that may be written again, for what is put here.
    """

    def __init__(
        self,
        host: str,
        credentials: Credentials,
        find: Callable[[str], Source | None],
        new_path: Callable[[int], str],
        damaged: Callable[[str, str, str], None],
        port: int = 0,
        freed: FreedFiles | None = None,
    ) -> None:
        self._credentials = credentials
        self._find = find
        self._new_path = new_path
        self._damaged = damaged
        self._freed = freed
        self._listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        number = self._listener.getsockname()[1]
        place = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
        #: what others connect to
        self.address = f"tls://{place}" if credentials.server_tls is not None else place
        #: bytes sent and taken since the start
        self.sent = self.taken = 0
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._unclaimed: dict[str, float] = {}
        self._accepting = threading.Thread(target=self._accept, name="data-server", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Serve nobody any more."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            connections, threads = list(self._open), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not self._closed:
                    logger.warning("data connections can't be accepted: %s", error)
                    time.sleep(0.1)  # as when no descriptors are left
                continue
            with self._lock:
                if len(self._open) >= CONNECTIONS or self._closed:
                    connection.close()
                    continue
                self._open.add(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), name="data-connection", daemon=True)
                self._threads.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.closing(Channel.accept(connection, self._credentials)) as channel:
                with self._lock:  # TLS has made another socket of it
                    self._open.discard(connection)
                    connection = channel.socket
                    self._open.add(connection)
                while not self._closed:
                    self._answer(channel, channel.receive(IDLE))
        except ProtocolError as error:
            logger.warning("refused a connection for data: %s", error)
        except OSError as error:
            logger.debug("a connection for data ended: %s", error)
        finally:
            connection.close()
            with self._lock:
                self._open.discard(connection)
                self._threads.discard(threading.current_thread())

    def _answer(self, channel: Channel, request: object) -> None:
        if isinstance(request, Get):
            self._send(channel, request)
        elif isinstance(request, Put):
            self._take(channel, request.nbytes)
        else:
            raise ProtocolError(f"a {type(request).__name__} where a request should be")

    # -- sending ----------------------------------------------------------------------------------------------------

    def _send(self, channel: Channel, request: Get) -> None:
        source = self._find(request.key)
        if source is None or not 0 <= request.offset <= source.nbytes or request.attempt not in (-1, source.attempt):
            channel.send(Found(-1))
        elif source.data is not None:
            channel.send(Found(source.nbytes, source.attempt))
            channel.send_data([memoryview(source.data)[request.offset :]])
            self.sent += source.nbytes - request.offset
        else:
            self._send_file(channel, request, source)

    def _send_file(self, channel: Channel, request: Get, source: Source) -> None:
        try:
            number, path = open_for_reading(source.path)
        except OSError:
            channel.send(Found(-1))
            return
        # The descriptor stays good if the value is freed or moved to disk meanwhile.
        with open(number, "rb", buffering=0):
            try:
                contents = Contents.of(number, path)
                channel.send(Found(contents.nbytes, source.attempt))
                # By a buffer: `sendfile` sends page by page, which costs who receives it more than it saves here, and
                # sends pages after the file is closed, when it may be written again.
                channel.send_data(contents.pieces(request.offset))
            except DamagedFileError as error:
                self._damaged(request.key, source.path, str(error))
                raise  # what was sent is not the whole: the other side learns that by the connection's end
            self.sent += contents.nbytes - request.offset

    # -- taking -----------------------------------------------------------------------------------------------------

    def _take(self, channel: Channel, nbytes: int) -> None:
        path = self._new_path(nbytes)
        buffer = memoryview(bytearray(min(PIECE_BYTES, max(1, nbytes))))
        reason, number = "", -1
        try:
            number = begin_file(path, nbytes, self._freed)
        except OSError as error:
            reason = str(error)
        whole = False
        try:
            for start in range(0, nbytes, PIECE_BYTES):
                piece = buffer[: min(PIECE_BYTES, nbytes - start)]
                channel.receive_data(piece)
                if not reason:
                    try:
                        write_all(number, piece)
                    except OSError as error:  # the rest is read all the same, or the answer would not be
                        reason = str(error)
            if not reason and is_sealed(path):
                seal_in_place(path)
            whole = not reason
        finally:
            if number >= 0:
                os.close(number)
            if number >= 0 and not whole:
                os.unlink(path)
        self.taken += nbytes
        channel.send(Kept(path if whole else "", reason))
        if whole:
            self._forget_unclaimed(path)

    def _forget_unclaimed(self, path: str) -> None:
        """Delete what was put long ago; what somebody took over has another name by now."""
        now = time.monotonic()
        with self._lock:
            self._unclaimed[path] = now
            late = [path for path, since in self._unclaimed.items() if now - since > UNCLAIMED]
            for path in late:
                del self._unclaimed[path]
        for path in late:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
