"""Messages about the memory of workers and the data they hold."""

from __future__ import annotations

from futurebroker.protocol.messages.parts import Message
from futurebroker.types import Key


class DataLost(Message, tag=110):
    """A worker says: a value I was known to hold is gone; ``reason`` says how."""

    key: Key
    reason: str


class Happened(Message, tag=111):
    """A worker says what became of its memory: stalled, spill_failed, paused, resumed, stuck, recycled, killed."""

    kind: str
    text: str
    at: float = 0.0  #: seconds since 1970, when it was sent
