"""Messages of the scheduler to workers."""

from __future__ import annotations

from futurebroker.protocol.messages.parts import Held, Message
from futurebroker.protocol.messages.terms import RunTerms
from futurebroker.types import Digest, Key


class Run(Message, tag=40):
    """Run a task. Input ``i`` of ``args`` is ``inputs[i]``.

    An input is bytes (the value itself) or `Held`; without holders, this worker has it, or will when a task sent to it
    earlier ends.
    """

    key: Key
    attempt: int
    function: Digest
    args: bytes
    inputs: tuple[bytes | Held, ...] = ()
    order: int = 0  #: smaller runs earlier
    terms: RunTerms | None = None
    anew: bool = False  #: what the worker kept of this key, or runs, for a scheduler before this is of another call


class Free(Message, tag=41):
    """Nobody needs these results any more, but for tasks already sent to this worker."""

    keys: list[Key]


class Drop(Message, tag=42):
    """Don't run this attempt; if it runs already, its result isn't wanted. Answered only if nothing was begun."""

    key: Key
    attempt: int


class GiveBack(Message, tag=43):
    """Hand back tasks that have not begun; answered by one GaveBack a task."""

    tasks: list[tuple[Key, int]]  #: (key, attempt)


class Store(Message, tag=44):
    """Keep this value as the result of ``key``; answered by Stored."""

    key: Key
    value: bytes


class AdoptFile(Message, tag=45):
    """Take over the file a client wrote as the result of ``key``; answered by Stored, or NotStored if it can't."""

    key: Key
    path: str
    nbytes: int


class StorePart(Message, tag=46):
    """A piece of a value to keep; answered by Stored when the last one is there."""

    key: Key
    offset: int
    nbytes: int
    data: bytes


class Replicate(Message, tag=47):
    """Fetch and keep a copy of a stored result; answered by Stored or NotStored."""

    source: Held


class CallFunction(Message, tag=48):
    """Call a function in an executor, out of line with tasks; answered by FunctionCalled."""

    number: int
    code: bytes
    args: bytes


class Leave(Message, tag=49):
    """Finish or hand back what runs, say Goodbye and exit."""

    reason: str = ""
    patience: float = 0.0  #: seconds what runs gets to finish; 0 for what the worker gives by itself
    hurry: bool = False  #: give up what runs and what is stored: the whole cluster ends


class Adopt(Message, tag=100):
    """What runs there under this key since a former scheduler's time is this attempt; else it is given back."""

    key: Key
    attempt: int
