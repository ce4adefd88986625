"""The envelope: what is signed arrives unchanged, and nothing else is even looked at."""

from __future__ import annotations

import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from futurebroker.exceptions import MessageTooLargeError, ProtocolError, SignatureError
from futurebroker.protocol.wire import MAX_ENVELOPE, MAX_HEADER, VERSION, Header, Keyring, Kind, peer_of
from futurebroker.types import Peer, Role

SECRET = b"a secret of thirty-two bytes or so"
HEADER = Header(Kind.DATA, "c", "w1", "i1", "scheduler", 1, 7, 5)
SIGNATURE = slice(6, 38)


def sealed(body: bytes = b"\x90", header: Header = HEADER, secret: bytes = SECRET) -> bytes:
    """An envelope of a worker to the scheduler."""
    return Keyring(secret).seal(Role.WORKER, Role.SCHEDULER, header, body)


def signed(header: bytes, body: bytes = b"", direction: int = 0x21) -> bytes:
    """An envelope signed as the layout says, by the standard library alone, around any header."""
    key = hmac.digest(SECRET, b"futurebroker envelope 2 1", "sha256")
    start = struct.pack("!2sBBH", b"fb", VERSION, direction, len(header))
    return start + hmac.digest(key, start + header + body, "sha256") + header + body


def opened(data: bytes) -> tuple[Role, Header, memoryview]:
    """What the scheduler makes of an envelope."""
    return Keyring(SECRET).open(data, Role.SCHEDULER)


@given(st.binary(max_size=300))
def test_what_is_sealed_comes_out_as_it_went_in(body: bytes) -> None:
    """The envelope adds nothing to a body and takes nothing away."""
    role, header, content = opened(sealed(body))
    assert (role, header, bytes(content)) == (Role.WORKER, HEADER, body)
    assert peer_of(role, header) == Peer(Role.WORKER, "w1", "i1")


@given(st.binary(max_size=300))
def test_the_signature_is_that_of_the_standard_library(body: bytes) -> None:
    """Ours is computed from kept hashes because that is three times cheaper; it must stay HMAC-SHA256."""
    envelope = sealed(body)
    key = hmac.digest(SECRET, b"futurebroker envelope 2 1", "sha256")
    assert envelope[SIGNATURE] == hmac.digest(key, envelope[:6] + envelope[38:], "sha256")


def test_no_byte_can_be_changed() -> None:
    """Whoever sits between may cut the line, not alter what is said: every bit of every byte is covered."""
    envelope = sealed(b"\x91\x01")
    for position in range(len(envelope)):
        for bit in range(8):
            forged = bytearray(envelope)
            forged[position] ^= 1 << bit
            with pytest.raises(ProtocolError):
                opened(bytes(forged))


def test_no_byte_can_be_missing_or_added() -> None:
    """A cut off envelope is not taken for a shorter one, nor a lengthened one for a longer."""
    envelope = sealed(b"\x91\x01")
    for length in range(len(envelope)):
        with pytest.raises(ProtocolError):
            opened(envelope[:length])
    with pytest.raises(SignatureError):
        opened(envelope + b"\0")


def test_another_secret_is_refused() -> None:
    """Two clusters on one broker can't talk into each other's affairs."""
    with pytest.raises(SignatureError, match="another secret"):
        opened(sealed(secret=b"another"))


@pytest.mark.parametrize("header", [b"", b"\xc1", b"\x91" * 1000, b"\x95\x01\xa2\xff\xfe\xa1a\xa1b\xa1c", b"\x90"])
def test_no_header_is_parsed_before_its_signature_is_checked(header: bytes) -> None:
    """A stranger's bytes never reach a parser: the error names the signature, not what a parser would stumble over."""
    right = signed(header)
    with pytest.raises(ProtocolError, match="header") as told:
        opened(right)
    assert not isinstance(told.value, SignatureError)
    wrong = bytearray(right)
    wrong[SIGNATURE.start] ^= 1
    with pytest.raises(SignatureError):
        opened(bytes(wrong))


def test_a_header_may_claim_no_more_than_there_is() -> None:
    """The length of the header is part of what is signed, but a peer with a bug may still get it wrong."""
    start = struct.pack("!2sBBH", b"fb", VERSION, 0x21, 500)
    key = hmac.digest(SECRET, b"futurebroker envelope 2 1", "sha256")
    with pytest.raises(ProtocolError, match="header"):
        opened(start + hmac.digest(key, start + b"\x90", "sha256") + b"\x90")


def test_an_envelope_counts_only_for_whom_it_was_made() -> None:
    """What a worker said can't be played back to a client, nor to the worker as if the scheduler had said it."""
    for role in (Role.WORKER, Role.CLIENT, Role.WEB):
        with pytest.raises(ProtocolError, match="another role"):
            Keyring(SECRET).open(sealed(), role)


@pytest.mark.parametrize("direction", [0x11, 0x23, 0x31, 0x41, 0x51, 0xF1, 0x01])
def test_a_direction_that_was_not_signed_for_is_refused(direction: int) -> None:
    """Each direction has a key of its own; one that doesn't exist has none."""
    with pytest.raises(ProtocolError):
        opened(signed(b"\x90", direction=direction))


def test_another_version_is_named() -> None:
    """After an upgrade of one side the log says so, instead of speaking of wrong signatures."""
    envelope = bytearray(sealed())
    envelope[2] = VERSION + 1
    with pytest.raises(ProtocolError, match=f"version {VERSION + 1}.*version {VERSION}"):
        opened(bytes(envelope))


def test_what_is_too_large_is_neither_made_nor_read() -> None:
    """The bound is checked before anything is hashed or copied."""
    with pytest.raises(MessageTooLargeError):
        sealed(bytes(MAX_ENVELOPE))
    with pytest.raises(MessageTooLargeError):
        sealed(header=Header(Kind.DATA, "c", "w" * MAX_HEADER, "i", "scheduler"))
    with pytest.raises(ProtocolError, match="bytes"):
        opened(bytes(MAX_ENVELOPE + 1))


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    """Anything may arrive in a queue; nothing of it may raise what its reader doesn't expect."""
    with pytest.raises(ProtocolError):
        opened(data)
    with pytest.raises(ProtocolError):
        opened(b"fb\x01\x21" + data)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_a_signed_header_of_any_bytes_is_a_protocol_error_or_a_header(header: bytes, body: bytes) -> None:
    """A peer with the secret and a bug must not end its reader."""
    try:
        role, parsed, content = opened(signed(header, body))
    except ProtocolError:
        return
    assert role is Role.WORKER
    assert isinstance(parsed, Header)
    assert bytes(content) == body
