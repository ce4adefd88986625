"""Records of the journal: what happened that must survive, in the order in which the scheduler took it in.

A fact is what somebody said and was accepted, not what followed from it: replaying the facts through the same machine
gives the same durable state. Which worker runs what is not among them; workers are asked for that. Times are those of
the scheduler that wrote them, and `Batch` ties them to the wall clock.
"""

from __future__ import annotations

import msgspec

from futurebroker.exceptions import ProtocolError
from futurebroker.protocol.messages import FromClient, FromWorker
from futurebroker.types import ClientId, Key, WorkerId

#: of what is written; a journal of another version must be drained by the version that wrote it
VERSION = 1


class Fact(msgspec.Struct, array_like=True, gc=False, omit_defaults=True, tag_field="tag"):
    """Base of all facts; ``at`` is when it happened."""

    at: float


class Said(Fact, tag=130):
    """A client said this."""

    client: ClientId
    messages: list[FromClient]


class Reported(Fact, tag=131):
    """Reports of a worker that counted: of the attempts which the scheduler held for these tasks."""

    worker: str  #: its name, for texts
    messages: list[FromWorker]


class Died(Fact, tag=132):
    """A worker or an executor was lost while it ran this task; ``kind`` names the error."""

    worker: str
    key: Key
    kind: str
    how: str = ""


class Lost(Fact, tag=133):
    """The last copy of a result is gone."""

    key: Key
    again: bool = False  #: it is computed again at once; else tasks at workers may have it already


class Needed(Fact, tag=139):
    """A lost result has to be computed again after all."""

    key: Key


class Refused(Fact, tag=134):
    """Scattered data on its way did not arrive."""

    key: Key
    reason: str = ""


class Claimed(Fact, tag=135):
    """A worker still had the result of a key that came again."""

    key: Key
    nbytes: int
    value: bytes | None = None


class Gone(Fact, tag=136):
    """A client has left for good."""

    client: ClientId


class Ticked(Fact, tag=137):
    """What was due was done."""


class Begun(Fact, tag=138):
    """A task that must not run twice was sent to a worker."""

    key: Key
    worker: WorkerId
    attempt: int


class GivenUp(Fact, tag=140):
    """A task must not run: it was revoked or has expired, and had not begun."""

    key: Key
    why: str


class Shelved(Fact, tag=141):
    """Kept results have left the memory; they are in a table of their own from here on."""

    keys: list[Key]


class Unshelved(Fact, tag=142):
    """Somebody asked for results that had left: they are known again; rows as in `scheduler.shelving`."""

    rows: list[bytes]


AnyFact = (
    Said | Reported | Died | Lost | Refused | Claimed | Gone | Ticked | Begun | Needed | GivenUp | Shelved | Unshelved
)


class Cursor(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """How far the session of a peer is known, so that it can go on with another scheduler."""

    role: int
    name: str
    incarnation: str
    received: int  #: number of the last envelope whose facts are written; -1: the session has ended
    inbox: str = ""  #: where the peer reads
    process: str = ""  #: as `processes.process_mark` names it, to see that it has ended


class Batch(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """What is written at once."""

    version: int
    at: float  #: by the clock of ``facts``
    wall: float  #: the same moment in seconds since 1970
    facts: list[AnyFact] = []
    cursors: list[Cursor] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)


def encode_batch(batch: Batch) -> bytes:
    """The bytes of a batch."""
    return _encoder.encode(batch)


def decode_batch(body: bytes | memoryview) -> Batch:
    """The batch of ``body``.

    Raises:
        ProtocolError: it isn't one, or of another version.
    """
    try:
        batch = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a journal row that can't be read: {error}") from error
    if batch.version != VERSION:
        raise ProtocolError(f"a journal of version {batch.version}; this one reads version {VERSION}")
    return batch
