"""Messages that carry stored results; asked for by clients and workers, passed on by the scheduler."""

from __future__ import annotations

from futurebroker.protocol.messages.parts import Message
from futurebroker.types import Key, WorkerId


class DataWanted(Message, tag=30):
    """Send bytes ``offset`` to ``offset + length`` of a stored result."""

    transfer: int  #: chosen by who asks
    key: Key
    offset: int
    length: int
    holder: WorkerId = ""  #: whom to ask; the scheduler chooses when empty
    asker: str = ""  #: filled in by the scheduler on the way to the holder
    inbox: str = ""  #: queue for the part, past the scheduler; empty: by the scheduler, as is all that isn't a part
    got: int = 0  #: bytes of this transfer that have arrived


class DataEnough(Message, tag=32):
    """A transfer has ended; needless where one part was the whole, and where the holder didn't have it."""

    transfer: int


class DataPart(Message, tag=31):
    """Bytes of a stored result; ``nbytes`` is the whole's length, and -1 says that the holder doesn't have it."""

    transfer: int
    key: Key
    offset: int
    nbytes: int
    data: bytes
    asker: str = ""
    attempt: int = 0  #: of the task that made it, so that parts of two values don't become one
