"""Messages of the scheduler to clients."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol.messages.parts import Failure, Held, Message
from futurebroker.types import Key, WorkerId


class KeyFinished(Message, tag=80):
    """A result is there: the value when it is small, else where it lies."""

    key: Key
    value: bytes | None = None
    held: Held | None = None
    type: str = ""


class KeyErred(Message, tag=81):
    """A task, or what it depends on, failed for good."""

    key: Key
    failure: Failure


class KeyCancelled(Message, tag=82):
    """A task was cancelled, or its data is lost for good; ``reason`` says by whom or how."""

    key: Key
    reason: str = ""
    #: "cancelled"; "lost" for scattered data that went with its worker; "rejected" when the scheduler didn't take it
    kind: str = "cancelled"


class KeyLost(Message, tag=83):
    """A finished result went with its worker and is being computed again."""

    key: Key


class Answer(Message, tag=84):
    """What Ask came to; ``error`` is empty unless the question can't be answered."""

    number: int
    value: Any = None
    error: str = ""


class Published(Message, tag=86):
    """An event was logged under a topic that the client subscribed to."""

    topic: str
    at: float  #: seconds since 1970, by the scheduler's clock
    event: Any


class RanOnWorkers(Message, tag=85):
    """What RunOnWorkers came to, by worker id."""

    number: int
    results: dict[WorkerId, tuple[bytes | None, Failure | None]]


class DetachedEnded(Message, tag=101):
    """Tasks that this client detached have ended, in whatever way: it need not submit them again any more."""

    keys: list[Key]
