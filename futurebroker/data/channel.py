"""One authenticated connection for data: who connects and who answers prove to each other that they know the secret.

Both send a random number and a code that only a holder of the cluster's secret can make of the two. On loopback plain
bytes follow. Elsewhere every piece carries a code of its own, made with keys of this connection and counted, so that
nothing can be changed, repeated or left out; or the connection is TLS, which does the same and hides the bytes as well.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from futurebroker.exceptions import ProtocolError, SignatureError

#: bytes of data that go under one code
PIECE_BYTES = 1024 * 1024
#: seconds without a byte after which a connection is given up
SILENCE = 15.0

_MAGIC = b"fbd1"
_NONCE = 32
_CODE = 32
_OPENING = struct.Struct(f"!4sB{_NONCE}s")
_LENGTH = struct.Struct("!I")
_COUNT = struct.Struct("!Q")
#: bytes a request or an answer may have, without its data
_RECORD_BYTES = 64 * 1024
_PLAIN, _GUARDED = 0, 1


class Get(msgspec.Struct, array_like=True, tag=1):
    """Send the value of ``key`` from ``offset`` on, if it is still that of ``attempt`` (-1: whichever it is)."""

    key: str
    offset: int = 0
    attempt: int = -1


class Put(msgspec.Struct, array_like=True, tag=2):
    """Take ``nbytes`` bytes that follow, and say under which path they are."""

    nbytes: int


class Found(msgspec.Struct, array_like=True, tag=3):
    """The value has ``nbytes`` bytes; those from the offset on follow. -1: it isn't here."""

    nbytes: int
    attempt: int = 0


class Kept(msgspec.Struct, array_like=True, tag=4):
    """What was put is at ``path``; without one it could not be kept, because of ``reason``."""

    path: str
    reason: str = ""


Record = Get | Put | Found | Kept
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


@dataclass(frozen=True, slots=True)
class Credentials:
    """What connections of one cluster are made with."""

    secret: bytes
    cluster: str
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None

    def code(self, what: bytes, *parts: bytes) -> bytes:
        """What only a holder of the secret can make of ``parts``."""
        key = hmac.digest(self.secret, b"futurebroker data", "sha256")
        text = b"".join(_LENGTH.pack(len(part)) + part for part in (what, self.cluster.encode(), *parts))
        return hmac.digest(key, text, "sha256")


def is_near(connection: socket.socket) -> bool:
    """Whether nobody outside this machine can be between the two ends."""
    if connection.family == socket.AF_UNIX:
        return True
    here, there = connection.getsockname()[0], connection.getpeername()[0]
    return ipaddress.ip_address(here).is_loopback and ipaddress.ip_address(there).is_loopback


class Channel:
    """See the top of this file; made by `connect` or `accept`, used by one thread at a time.

    Its methods raise OSError when the connection breaks, and ProtocolError for what isn't ours.
    """

    def __init__(self, connection: socket.socket, sending: bytes | None, receiving: bytes | None) -> None:
        self.socket = connection
        self._sending = sending
        self._receiving = receiving
        self._sent = self._received = 0

    @property
    def guarded(self) -> bool:
        """Whether each piece carries a code."""
        return self._sending is not None

    @classmethod
    def connect(cls, address: str, credentials: Credentials, timeout: float) -> Channel:
        """Connect to a data server at ``host:port``, or ``tls://host:port``."""
        scheme, _, place = address.rpartition("://")
        host, _, port = place.rpartition(":")
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout)
        try:
            if scheme == "tls":
                if credentials.client_tls is None:
                    raise ProtocolError(f"{address} wants TLS, and no certificate authority is set here")
                connection = credentials.client_tls.wrap_socket(connection, server_hostname=host.strip("[]"))
            _tune(connection)
            mode = _PLAIN if scheme == "tls" or is_near(connection) else _GUARDED
            ours = secrets.token_bytes(_NONCE)
            connection.sendall(_OPENING.pack(_MAGIC, mode, ours))
            answer = _receive(connection, _NONCE + _CODE)
            theirs, code = answer[:_NONCE], answer[_NONCE:]
            both = (bytes([mode]), ours, theirs)
            if not hmac.compare_digest(code, credentials.code(b"server", *both)):
                raise SignatureError(f"{address} doesn't know this cluster's secret")
            connection.sendall(credentials.code(b"client", *both))
            return cls._keyed(connection, credentials, mode, both, b"client", b"server")
        except BaseException:
            connection.close()
            raise

    @classmethod
    def accept(cls, connection: socket.socket, credentials: Credentials) -> Channel:
        """Answer who has just connected; the caller closes the socket if this raises."""
        connection.settimeout(SILENCE)
        safe = is_near(connection)
        if credentials.server_tls is not None:
            connection = credentials.server_tls.wrap_socket(connection, server_side=True)
            safe = True
        _tune(connection)
        magic, mode, theirs = _OPENING.unpack(_receive(connection, _OPENING.size))
        if magic != _MAGIC or mode not in (_PLAIN, _GUARDED):
            raise ProtocolError("not a connection for data")
        if mode == _PLAIN and not safe:
            raise ProtocolError("a connection from elsewhere without codes")
        ours = secrets.token_bytes(_NONCE)
        both = (bytes([mode]), theirs, ours)
        connection.sendall(ours + credentials.code(b"server", *both))
        if not hmac.compare_digest(_receive(connection, _CODE), credentials.code(b"client", *both)):
            raise SignatureError("somebody without this cluster's secret")
        return cls._keyed(connection, credentials, mode, both, b"server", b"client")

    @classmethod
    def _keyed(
        cls,
        connection: socket.socket,
        credentials: Credentials,
        mode: int,
        both: tuple[bytes, ...],
        here: bytes,
        there: bytes,
    ) -> Channel:
        if mode == _PLAIN:
            return cls(connection, None, None)
        keys = (credentials.code(b"pieces of " + side, *both) for side in (here, there))
        return cls(connection, *keys)

    # -- records ----------------------------------------------------------------------------------------------------

    def send(self, record: Record) -> None:
        """Send a request or an answer."""
        body = _encode(record)
        self.socket.sendall(_LENGTH.pack(len(body)) + body + self._code_out(body))

    def receive(self, timeout: float = SILENCE) -> Any:
        """The next request or answer."""
        self.socket.settimeout(timeout)
        (length,) = _LENGTH.unpack(_receive(self.socket, _LENGTH.size))
        self.socket.settimeout(SILENCE)
        if length > _RECORD_BYTES:
            raise ProtocolError(f"a record of {length:,} bytes")
        body = _receive(self.socket, length)
        self._check(body)
        try:
            return _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"a record that can't be read: {error}") from error

    # -- data -------------------------------------------------------------------------------------------------------

    def send_data(self, pieces: Iterable[memoryview]) -> None:
        """Send bytes whose number the other side knows."""
        for piece in pieces:
            for start in range(0, len(piece), PIECE_BYTES):
                part = piece[start : start + PIECE_BYTES]
                self.socket.sendall(part)
                if self._sending is not None:
                    self.socket.sendall(self._code_out(part))

    def receive_data(self, view: memoryview, at: int = 0) -> None:
        """Fill ``view`` with what is sent, of whose value it begins at byte ``at``, a multiple of `PIECE_BYTES`."""
        while view:
            piece = view[: PIECE_BYTES - at % PIECE_BYTES] if self._receiving is not None else view
            filled = 0
            while filled < len(piece):
                got = self.socket.recv_into(piece[filled:])
                if not got:
                    raise ConnectionResetError("the connection ended before the data did")
                filled += got
            if self._receiving is not None:
                self._check(piece)
            at += len(piece)
            view = view[len(piece) :]

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    # -- codes ------------------------------------------------------------------------------------------------------

    def _code_out(self, data: bytes | memoryview) -> bytes:
        if self._sending is None:
            return b""
        self._sent += 1
        return _code(self._sending, self._sent, data)

    def _check(self, data: bytes | memoryview) -> None:
        if self._receiving is None:
            return
        self._received += 1
        if not hmac.compare_digest(_receive(self.socket, _CODE), _code(self._receiving, self._received, data)):
            raise SignatureError("data that was changed on its way")


def _code(key: bytes, count: int, data: bytes | memoryview) -> bytes:
    code = hmac.new(key, _COUNT.pack(count), hashlib.sha256)
    code.update(data)
    return code.digest()


def _tune(connection: socket.socket) -> None:
    connection.settimeout(SILENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _receive(connection: socket.socket, nbytes: int) -> bytes:
    data = bytearray()
    while len(data) < nbytes:
        more = connection.recv(nbytes - len(data))
        if not more:
            raise ConnectionResetError("the connection ended")
        data += more
    return bytes(data)
