"""One party's half of a numbered conversation over a channel that may lose, double, delay and reorder (sans-IO).

Rules. Every DATA envelope has the next number of its direction. The receiver delivers in order, each once; what comes
early waits, what comes again is dropped and acknowledged again. Acknowledgements are cumulative and ride on whatever
is sent; alone they are sent when nothing else was for `ACK_DELAY`, or `ACK_EVERY` envelopes are owed. The sender keeps
what isn't acknowledged and sends it again after a reconnect, or when no acknowledgement came for a while. Times are
monotonic seconds and always given by the caller.
"""

from __future__ import annotations

from collections import deque

import msgspec

from futurebroker.exceptions import ProtocolError

#: seconds an acknowledgement may wait for something to ride on
ACK_DELAY = 0.05
#: envelopes received after which an acknowledgement leaves at once
ACK_EVERY = 16
#: seconds without an acknowledgement after which unacknowledged envelopes are sent again; doubles up to the maximum
RESEND_AFTER = 2.0
RESEND_AFTER_MAX = 30.0
#: how far ahead of the next due an envelope may be to wait for those between; others are dropped and come again
EARLY_LIMIT = 1024
#: bytes of envelopes that may wait for an earlier one
EARLY_BYTES = 64 * 1024 * 1024
#: envelopes sent again at a time
RESEND_BURST = 64


class Outgoing(msgspec.Struct, gc=False):
    """An envelope to send now; its number never changes, ``ack`` is as of this sending."""

    sequence: int  #: 0 for a bare acknowledgement
    ack: int
    body: bytes


class Session:
    """Numbering, order and memory of one conversation; see the rules at the top of this file."""

    def __init__(self) -> None:
        self._sent = 0
        self._unacked: deque[tuple[int, bytes]] = deque()
        self._received = 0
        #: up to where arrivals may be acknowledged; None: at once
        self._cleared: int | None = None
        self._early: dict[int, bytes] = {}
        self._early_bytes = 0
        #: envelopes that came and are not acknowledged
        self.owed = 0
        self._ack_at: float | None = None
        self._resend_at: float | None = None
        self._patience = RESEND_AFTER
        #: bytes sent and not acknowledged
        self.unacked_bytes = 0
        #: envelopes dropped because they had arrived before
        self.duplicates = 0

    @property
    def received(self) -> int:
        """Number of the last envelope delivered; what a hello tells the other side."""
        return self._received

    @property
    def sent(self) -> int:
        """Number of the last envelope sent."""
        return self._sent

    @property
    def unacked(self) -> int:
        """How many envelopes wait for an acknowledgement."""
        return len(self._unacked)

    @property
    def is_unheard(self) -> bool:
        """Whether envelopes had to be sent again and nothing was acknowledged since."""
        return self._patience > RESEND_AFTER

    def open_envelopes(self) -> list[Outgoing]:
        """All that wait for an acknowledgement, to be sent once more."""
        return [self._outgoing(number, body) for number, body in self._unacked]

    def send(self, body: bytes, now: float) -> Outgoing:
        """Number ``body`` and keep it until it is acknowledged."""
        self._sent += 1
        self._unacked.append((self._sent, body))
        self.unacked_bytes += len(body)
        if self._resend_at is None:
            self._resend_at = now + self._patience
        self.owed = 0
        self._ack_at = None
        return Outgoing(self._sent, self._received if self._cleared is None else self._cleared, body)

    def receive(self, sequence: int, ack: int, body: bytes | memoryview, now: float) -> list[bytes | memoryview]:
        """Take in an envelope; returns the bodies that are now due, in order.

        Raises:
            ProtocolError: it acknowledges what was never sent.
        """
        unacked = self._unacked
        if ack > self._sent or (unacked and unacked[0][0] <= ack):
            self.acknowledge(ack, now)
        if sequence == 0:
            return []
        if self._cleared is None or sequence <= self._cleared:
            self._owe(now)
        if sequence <= self._received:
            self.duplicates += 1
            self.owed = ACK_EVERY
            return []
        if sequence > self._received + 1:
            self._keep_early(sequence, body)
            return []
        self._received = sequence
        due: list[bytes | memoryview] = [body]
        while self._early:
            following = self._early.pop(self._received + 1, None)
            if following is None:
                break
            self._received += 1
            self._early_bytes -= len(following)
            due.append(following)
        return due

    def _keep_early(self, sequence: int, body: bytes | memoryview) -> None:
        if sequence in self._early:
            self.duplicates += 1
        elif sequence <= self._received + EARLY_LIMIT and self._early_bytes + len(body) <= EARLY_BYTES:
            self._early[sequence] = bytes(body)
            self._early_bytes += len(body)

    def acknowledge(self, ack: int, now: float) -> None:
        """The other side has everything up to ``ack``."""
        if ack > self._sent:
            raise ProtocolError(f"envelope {ack} was acknowledged, but only {self._sent} were sent")
        unacked = self._unacked
        if not unacked or unacked[0][0] > ack:
            return
        while unacked and unacked[0][0] <= ack:
            self.unacked_bytes -= len(unacked.popleft()[1])
        self._patience = RESEND_AFTER
        self._resend_at = now + self._patience if unacked else None

    def resume(self, received: int, now: float) -> list[Outgoing]:
        """The channel is new and the other side has everything up to ``received``: what to send again."""
        self.acknowledge(received, now)
        self._resend_at = now + self._patience if self._unacked else None
        return self.open_envelopes()

    def due(self, now: float) -> list[Outgoing]:
        """What time alone makes necessary: envelopes to send again, or a bare acknowledgement."""
        if self._resend_at is not None and now >= self._resend_at:
            self._patience = min(self._patience * 2, RESEND_AFTER_MAX)
            self._resend_at = now + self._patience
            burst = list(self._unacked)[:RESEND_BURST]
            return [self._outgoing(number, body) for number, body in burst]
        if self.owed >= ACK_EVERY or (self._ack_at is not None and now >= self._ack_at):
            return [self._outgoing(0, b"")]
        return []

    @property
    def oldest(self) -> int:
        """Number of the first envelope that may be sent again; everything before it was acknowledged."""
        return self._unacked[0][0] if self._unacked else self._sent + 1

    def hold_acks(self) -> None:
        """Acknowledge from now on only what `clear` names."""
        if self._cleared is None:
            self._cleared = self._received

    def clear(self, number: int, now: float) -> None:
        """What arrived up to ``number`` may be acknowledged."""
        if self._cleared is not None and number > self._cleared:
            self.owed += number - self._cleared
            self._cleared = number
            if self._ack_at is None:
                self._ack_at = now + ACK_DELAY

    def restore(self, received: int) -> None:
        """Go on as somebody who had everything up to ``received``, and acknowledged it."""
        self._received = max(self._received, received)
        if self._cleared is not None:
            self._cleared = max(self._cleared, received)

    def receive_anew(self) -> None:
        """The other side numbers its envelopes anew; ours go on."""
        self._received = 0
        self._early.clear()
        self._early_bytes = 0
        self.owed = 0
        self._ack_at = None

    def ack_overdue(self) -> bool:
        """Whether an acknowledgement should leave now rather than at `deadline`."""
        return self.owed >= ACK_EVERY

    def deadline(self) -> float | None:
        """When `due` has something to say at the latest; None while nothing is open."""
        if self._ack_at is None:
            return self._resend_at
        if self._resend_at is None:
            return self._ack_at
        return min(self._ack_at, self._resend_at)

    def _owe(self, now: float) -> None:
        self.owed += 1
        if self._ack_at is None:
            self._ack_at = now + ACK_DELAY

    def _outgoing(self, sequence: int, body: bytes) -> Outgoing:
        self.owed = 0
        self._ack_at = None
        return Outgoing(sequence, self._received if self._cleared is None else self._cleared, body)
