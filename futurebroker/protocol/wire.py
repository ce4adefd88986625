"""The envelope: one signed unit on the network, holding a header and a body of many messages.

Layout: magic (2 bytes), version (1), direction (1), header length (2), signature (32), header, body. The signature is
HMAC-SHA256 over everything but itself, with a key derived from the cluster's secret for that direction, and is checked
before a byte of header or body is parsed. Algorithm and layout are fixed by the version and never negotiated.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import IntEnum

import msgspec

from futurebroker.exceptions import MessageTooLargeError, ProtocolError, SignatureError
from futurebroker.types import Peer, Role

MAGIC = b"fb"
VERSION = 1
#: bytes an envelope may have at most; well below the 16 MiB some brokers allow a message
MAX_ENVELOPE = 8 * 1024 * 1024
#: bytes of names and numbers a header may have; two bytes tell how many they are
MAX_HEADER = 0xFFFF
#: bytes of messages after which a batch is closed and sent
BATCH_BYTES = 128 * 1024 - 1024
#: messages after which a batch is closed and sent
BATCH_MESSAGES = 512

_PREFIX = struct.Struct("!2sBBH32s")
_SIGNED = struct.Struct("!2sBBH")


class Kind(IntEnum):
    """What an envelope is to the session."""

    MEETING = 0  #: not numbered: hello, welcome, heartbeats
    DATA = 1  #: numbered; delivered once and in order
    ACK = 2  #: no body; tells what has arrived


class Header(msgspec.Struct, array_like=True, gc=False):
    """Who sends an envelope to whom, and its place in their session."""

    kind: int
    cluster: str
    sender: str
    incarnation: str
    recipient: str
    epoch: int = 0
    sequence: int = 0  #: of DATA envelopes, counted from 1
    ack: int = 0  #: all envelopes of the other direction up to here have arrived


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode

_DIRECTIONS = [(a, b) for a in Role for b in Role if Role.SCHEDULER in (a, b) and a != b]


class _Signer:
    """HMAC-SHA256 with one key. The key's two hashed blocks are kept, which makes a short message three times cheaper
    than `hmac.digest`; a test holds the two to each other."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def sign(self, *parts: bytes | memoryview) -> bytes:
        inner = self._inner.copy()
        for part in parts:
            inner.update(part)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class Keyring:
    """Signing keys of one cluster, one for each direction, derived from its secret."""

    def __init__(self, secret: bytes) -> None:
        #: by direction, with the role of who signs
        self._signers = {
            (a << 4) | b: (_Signer(hmac.digest(secret, b"futurebroker envelope %d %d" % (a, b), "sha256")), a)
            for a, b in _DIRECTIONS
        }

    def seal(self, sender: Role, recipient: Role, header: Header, body: bytes) -> bytes:
        """The envelope's bytes.

        Raises:
            MessageTooLargeError: the whole is over `MAX_ENVELOPE`, or the names in its header over `MAX_HEADER`.
        """
        direction = (sender << 4) | recipient
        packed = _encode(header)
        size = len(body) + len(packed) + _PREFIX.size
        if size > MAX_ENVELOPE or len(packed) > MAX_HEADER:
            raise MessageTooLargeError("an envelope", size, MAX_ENVELOPE)
        start = _SIGNED.pack(MAGIC, VERSION, direction, len(packed))
        return b"".join((start, self._signers[direction][0].sign(start, packed, body), packed, body))

    def open(self, data: bytes, recipient: Role) -> tuple[Role, Header, memoryview]:
        """The sender's role, the header and the body of an envelope sent to ``recipient``.

        Raises:
            ProtocolError: not an envelope of this version, or not for this role.
            SignatureError: its signature doesn't fit; nothing was parsed.
        """
        size = len(data)
        if size < _PREFIX.size or size > MAX_ENVELOPE:
            raise ProtocolError(f"an envelope of {size:,} bytes")
        magic, version, direction, length, signature = _PREFIX.unpack_from(data)
        if magic != MAGIC:
            raise ProtocolError("not an envelope")
        if version != VERSION:
            raise ProtocolError(f"an envelope of version {version}; this side speaks version {VERSION}")
        signer, sender = self._signers.get(direction, (None, recipient))
        if signer is None or direction & 15 != recipient:
            raise ProtocolError("an envelope for another role")
        view = memoryview(data)
        if not hmac.compare_digest(signature, signer.sign(view[: _SIGNED.size], view[_PREFIX.size :])):
            raise SignatureError("an envelope with a wrong signature: its sender has another secret, or it was altered")
        try:
            header = _decode(view[_PREFIX.size : _PREFIX.size + length])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"a header that can't be read: {error}") from error
        return sender, header, view[_PREFIX.size + length :]


class Seal:
    """Signs what is stored, so that who can write to the database can't make workers run what they like.

    The place where a blob is stored is signed with it: a blob that was moved doesn't fit there.

    Args:
        what: what is signed; a blob of one kind fits nowhere as one of another.
    """

    def __init__(self, secret: bytes, what: bytes = b"stored") -> None:
        self._signer = _Signer(hmac.digest(secret, b"futurebroker " + what, "sha256"))

    def close(self, place: str, body: bytes) -> bytes:
        """``body`` with its signature for ``place``."""
        return self._signer.sign(place.encode(), b"\0", body) + body

    def open(self, place: str, blob: bytes | memoryview) -> memoryview:
        """The body of a blob made for ``place``.

        Raises:
            SignatureError: it wasn't, or by who has another secret; nothing was parsed.
        """
        view = memoryview(blob)
        if len(view) < 32 or not hmac.compare_digest(view[:32], self._signer.sign(place.encode(), b"\0", view[32:])):
            raise SignatureError(
                f"{place} has a wrong signature: it was written with another secret, or altered; "
                "start with the secret it was written with"
            )
        return view[32:]


def peer_of(role: Role, header: Header) -> Peer:
    """Who sent an envelope."""
    return Peer(role, header.sender, header.incarnation)
