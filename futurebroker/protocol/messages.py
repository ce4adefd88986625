"""Every message, one record each, grouped by who sends it to whom.

A record is encoded as a MessagePack array that starts with its tag. Fields named ``code``, ``args``, ``value`` and
``payload`` are opaque bytes made by `serialize`; the scheduler and the agents pass them on and never open them. Fields
may be added at the end with a default; anything else needs a new `PROTOCOL`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from futurebroker.exceptions import ProtocolError
from futurebroker.types import Digest, Key, WorkerId

#: version of messages, envelope and queues; peers of another version are refused
PROTOCOL = 1

#: bytes up to which a result travels inside its completion and on to the clients that want it
INLINE_LIMIT = 64 * 1024
#: bytes up to which the scheduler keeps a result itself, so that it can't be lost with a worker
KEEP_LIMIT = 4 * 1024


class Message(msgspec.Struct, array_like=True, gc=False, omit_defaults=True, tag_field="tag"):
    """Base of all records that travel."""


class Part(msgspec.Struct, array_like=True, gc=False, omit_defaults=True, frozen=True):
    """Base of what messages are made of."""


# -- parts of messages ---------------------------------------------------------------------------------------------


class TaskOptions(Part, frozen=True):
    """How a task may run; one record is shared by all tasks of a call to ``map``."""

    workers: tuple[str, ...] = ()  #: worker names, ids or host names that may run it; empty means any
    allow_other_workers: bool = False  #: run elsewhere when none of ``workers`` is connected
    resources: dict[str, float] | None = None  #: abstract amounts taken from the worker's while it runs
    retries: int = 0  #: how many times an exception of the task is answered by another run
    priority: int = 0  #: larger runs earlier


class Held(Part, frozen=True):
    """A result that lies in a worker's store."""

    key: Key
    nbytes: int = 0
    #: who has it, and the path of its file on that worker's host; empty: the worker this is sent to
    holders: list[tuple[WorkerId, str]] = []


class Failure(Part, frozen=True):
    """Why a task failed: the exception itself for who may open it, and its text for everybody."""

    type: str  #: name of the exception's type
    message: str
    traceback: str  #: as the interpreter would print it, bounded
    key: Key  #: the task that failed first
    worker: str  #: name of the worker it ran on; empty when the scheduler failed it
    payload: bytes | None = None  #: pickled exception with its traceback
    fields: list[Any] | None = None  #: arguments of ``type``, one of our own, when the scheduler failed it


# -- meeting: these are not numbered -------------------------------------------------------------------------------


class Hello(Message, tag=1):
    """A client or worker introduces itself; sent again after every reconnect and answered by Welcome or Refused."""

    inbox: str  #: queue to answer to
    protocol: int
    python: str  #: major.minor of the interpreter that pickles
    received: int  #: last envelope of this session that arrived
    epoch: int = 0  #: of the scheduler it was last welcomed by; 0 means none
    info: dict[str, Any] = {}  #: of workers: see `WorkerInfo`; of clients: user, host, program


class Welcome(Message, tag=2):
    """The scheduler accepts: go on from ``received``."""

    epoch: int
    received: int  #: last envelope of the peer's session that arrived
    inbox: str  #: queue for everything the peer sends from now on
    limits: dict[str, int] = {}  #: for clients: ``tasks`` and ``bytes`` they may have unfinished
    settings: dict[str, float] = {}  #: ``heartbeat``: seconds between heartbeats


class Refused(Message, tag=3):
    """The scheduler won't have this peer; ``reason`` names both sides of what doesn't fit."""

    reason: str


class Heartbeat(Message, tag=4):
    """A worker or client is alive; of workers with what its machine and its tasks do."""

    status: str = "running"  #: a `WorkerStatus` value
    metrics: dict[str, Any] = {}
    inbox: str = ""  #: queue to answer to, for a scheduler that doesn't know this peer


class Heard(Message, tag=5):
    """Answers a heartbeat, so that the peer can measure a round trip and notice a scheduler that is gone."""

    interval: float = 0.0  #: seconds between heartbeats from now on; 0: as before


class Goodbye(Message, tag=6):
    """This peer leaves for good; what it held is gone."""

    reason: str = ""


class MeetAgain(Message, tag=7):
    """The scheduler asks for another hello: it was cut off, or it doesn't know this incarnation (any more)."""

    incarnation: str  #: of the peer that is meant
    forgotten: bool = False  #: its session is gone with all that belonged to it; it has to come as another incarnation


class HeartbeatWanted(Message, tag=8):
    """The scheduler wants to hear of this peer now, and not only when its next heartbeat is due."""


# -- client to scheduler -------------------------------------------------------------------------------------------


class AddFunction(Message, tag=10):
    """A function, once per digest: from client to scheduler, and on to each worker before its first task."""

    digest: Digest
    name: str  #: what keys of its calls start with
    code: bytes


class Submit(Message, tag=11):
    """Calls of one function with equal options, column by column. The client wants every key."""

    function: Digest
    keys: list[Key]
    args: list[bytes]
    dependencies: list[tuple[Key, ...]] | None = None  #: one tuple a call; None when no call has any
    options: TaskOptions | None = None


class Release(Message, tag=12):
    """The client holds no future of these keys any more."""

    keys: list[Key]


class Want(Message, tag=13):
    """The client got hold of futures of these keys otherwise than by submitting them."""

    keys: list[Key]
    patient: bool = False  #: a former scheduler knew them: wait for a worker to say that it has them


class Cancel(Message, tag=14):
    """The client doesn't want these, nor what depends on them; with ``force`` no other client gets them either."""

    keys: list[Key]
    force: bool = False
    reason: str = ""


class Retry(Message, tag=15):
    """Run failed tasks again, from the one that failed first."""

    keys: list[Key]


class Detach(Message, tag=16):
    """Keep these tasks until they are done, whether or not a client wants them (``fire_and_forget``)."""

    keys: list[Key]


class PutValue(Message, tag=17):
    """Scattered data small enough to travel in its message."""

    key: Key
    value: bytes
    workers: tuple[str, ...] = ()
    broadcast: bool = False


class PutFile(Message, tag=18):
    """Scattered data in a file that the client wrote; a worker on that host takes the file over."""

    key: Key
    path: str
    nbytes: int
    workers: tuple[str, ...] = ()
    broadcast: bool = False


class PutPart(Message, tag=19):
    """A piece of scattered data, for workers that can't open the client's file; the last piece completes it."""

    key: Key
    offset: int
    nbytes: int  #: of the whole
    data: bytes
    workers: tuple[str, ...] = ()
    broadcast: bool = False


class Ask(Message, tag=20):
    """A question of a client (``who_has``, ``nthreads``, ...), answered by Answer with the same number."""

    number: int
    topic: str
    about: Any = None


class RunOnWorkers(Message, tag=21):
    """Call a function once on every worker named, out of line with tasks; answered by RanOnWorkers."""

    number: int
    code: bytes
    args: bytes
    workers: tuple[str, ...] = ()  #: names, ids or hosts; empty means all
    wait: bool = True


# -- data, asked for by clients and workers, passed on by the scheduler ---------------------------------------------


class DataWanted(Message, tag=30):
    """Send bytes ``offset`` to ``offset + length`` of a stored result."""

    transfer: int  #: chosen by who asks
    key: Key
    offset: int
    length: int
    holder: WorkerId = ""  #: whom to ask; the scheduler chooses when empty
    asker: str = ""  #: filled in by the scheduler on the way to the holder


class DataPart(Message, tag=31):
    """Bytes of a stored result; ``nbytes`` is the whole's length, and -1 says that the holder doesn't have it."""

    transfer: int
    key: Key
    offset: int
    nbytes: int
    data: bytes
    asker: str = ""


# -- scheduler to worker -------------------------------------------------------------------------------------------


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


# -- worker to scheduler -------------------------------------------------------------------------------------------


class Finished(Message, tag=60):
    """A task is done; ``value`` is the result when it is small, else it lies in the worker's store at ``path``."""

    key: Key
    attempt: int
    nbytes: int
    duration: int  #: microseconds in user code
    value: bytes | None = None
    path: str = ""
    type: str = ""  #: name of the result's type


class Erred(Message, tag=61):
    """A task raised."""

    key: Key
    attempt: int
    failure: Failure
    duration: int = 0


class ExecutorDied(Message, tag=62):
    """The executor process ended while it ran this task; ``how`` is its exit code or signal."""

    key: Key
    attempt: int
    how: str


class GaveBack(Message, tag=63):
    """This attempt was never begun and won't be."""

    key: Key
    attempt: int


class InputsMissing(Message, tag=64):
    """A task can't start: these inputs could not be fetched from any holder."""

    key: Key
    attempt: int
    missing: list[tuple[Key, WorkerId]]  #: (input, holder that didn't have it)


class Stored(Message, tag=65):
    """A value is kept here now."""

    key: Key
    nbytes: int
    path: str


class NotStored(Message, tag=66):
    """A value can't be kept here; ``reason`` says why."""

    key: Key
    reason: str


class FunctionCalled(Message, tag=67):
    """What CallFunction came to."""

    number: int
    value: bytes | None = None
    failure: Failure | None = None


class Inventory(Message, tag=68):
    """What a worker kept of its time with a former scheduler; first of all that it tells the new one."""

    held: list[tuple[Key, int, str]]  #: (key, bytes, path), as in Finished
    values: list[tuple[Key, bytes]] = []  #: results small enough for the scheduler to keep


# -- scheduler to client -------------------------------------------------------------------------------------------


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


class RanOnWorkers(Message, tag=85):
    """What RunOnWorkers came to, by worker id."""

    number: int
    results: dict[WorkerId, tuple[bytes | None, Failure | None]]


FromClient = (
    AddFunction | Submit | Release | Want | Cancel | Retry | Detach | PutValue | PutFile | PutPart | Ask | RunOnWorkers
    | DataWanted | DataPart | Hello | Heartbeat | Goodbye
)  # fmt: skip
FromWorker = (
    Finished | Erred | ExecutorDied | GaveBack | InputsMissing | Stored | NotStored | FunctionCalled | Inventory
    | DataWanted | DataPart | Hello | Heartbeat | Goodbye
)  # fmt: skip
ToWorker = (
    AddFunction | Run | Free | Drop | GiveBack | Store | AdoptFile | StorePart | Replicate | CallFunction | Leave
    | DataWanted | DataPart | Welcome | Refused | Heard | MeetAgain | HeartbeatWanted
)  # fmt: skip
ToClient = (
    KeyFinished | KeyErred | KeyCancelled | KeyLost | Answer | RanOnWorkers
    | DataWanted | DataPart | Welcome | Refused | Heard | MeetAgain | HeartbeatWanted
)  # fmt: skip

_encode = msgspec.msgpack.Encoder().encode
#: by direction
DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "from_client": msgspec.msgpack.Decoder(list[FromClient]),
    "from_worker": msgspec.msgpack.Decoder(list[FromWorker]),
    "to_worker": msgspec.msgpack.Decoder(list[ToWorker]),
    "to_client": msgspec.msgpack.Decoder(list[ToClient]),
}


def encode(messages: list[Message]) -> bytes:
    """The bytes of several messages, to be the body of one envelope."""
    return _encode(messages)


def decode(direction: str, body: bytes | memoryview) -> list[Any]:
    """The messages of a body of ``direction``, a key of `DECODERS`; raises ProtocolError if it isn't one."""
    try:
        return DECODERS[direction].decode(body)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a body that is no list of messages {direction.replace('_', ' ')}: {error}") from error
