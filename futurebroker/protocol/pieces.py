"""Bodies too large for one envelope: cut into pieces that are numbered as envelopes of their own, and joined again."""

from __future__ import annotations

from collections.abc import Iterator

from futurebroker.exceptions import ProtocolError

#: what a piece begins with; MessagePack never uses this byte, so no whole body does
MARK = 0xC1
#: bytes of a body from which it is cut, and of a piece
PIECE_BYTES = 1024 * 1024
#: bytes a body may have in all
WHOLE_BYTES = 256 * 1024 * 1024

_MORE = bytes((MARK, 1))
_LAST = bytes((MARK, 0))


def cut(body: bytes) -> Iterator[bytes]:
    """The pieces of ``body``, to be sent in this order with nothing between them."""
    for start in range(0, len(body), PIECE_BYTES):
        piece = body[start : start + PIECE_BYTES]
        yield (_MORE if start + PIECE_BYTES < len(body) else _LAST) + piece


class Joiner:
    """The pieces of one direction of a conversation that have come so far."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes | memoryview) -> bytes | None:
        """The whole body, if this was its last piece.

        Raises:
            ProtocolError: the whole would be over `WHOLE_BYTES`; what came of it is dropped.
        """
        self._size += len(piece)
        if self._size <= WHOLE_BYTES + PIECE_BYTES:
            self._pieces.append(bytes(piece[2:]))
            if piece[1:2] == b"\1":
                return None
        size, pieces = self._size, self._pieces
        self._pieces, self._size = [], 0
        if size > WHOLE_BYTES + PIECE_BYTES:
            raise ProtocolError(f"a body of more than {WHOLE_BYTES:,} bytes in pieces")
        return b"".join(pieces)
