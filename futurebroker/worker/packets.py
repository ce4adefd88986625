"""What the agent and its executors say to each other; bytes made by user code stay closed on the agent's side.

On the data socket, each packet (SOCK_SEQPACKET) is one `Packet` to the executor or one list of `Result` from it; what
is too large for the kernel's buffer goes through a file, and the packet names it. On the control socket, a stream,
each record follows its length in four bytes.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from futurebroker.protocol.messages import Failure, RunTerms
from futurebroker.types import Digest, Key

#: bytes an encoded packet may have; a larger one goes through a file
PACKET_BYTES = 128 * 1024
#: bytes of kernel buffer asked for on each side of the data socket
SOCKET_BUFFER = 1024 * 1024
#: bytes of results after which an executor reports before its packet is done
REPORT_BYTES = 64 * 1024
#: bytes a report may have; a larger one goes through a file. What two calls to report leave fits without.
REPORT_LIMIT = 192 * 1024
#: name of the folder, inside the store's, that holds one file a function
FUNCTIONS = "functions"
#: a breadcrumb, the number of the task a thread runs, as `struct` and `memoryview` write it; and its bytes
CRUMB: Final = "Q"
CRUMB_BYTES = struct.calcsize(CRUMB)
#: how the room for values in memory is written, and its bytes
ROOM = struct.Struct("<Q")
ROOM_BYTES = ROOM.size
#: tasks of one executor that may wait for others, or have seceded, at a time; each holds a thread and a breadcrumb
AWAY_MAX = 1000
#: length of a record on the control socket
LENGTH = struct.Struct("!I")


class ValueFile(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An input that is to be mapped."""

    path: str


class Task(msgspec.Struct, array_like=True, gc=False):
    """A task as an executor gets it.

    An input is bytes (the value), a file, or the number of an earlier task of the same packet.
    """

    number: int  #: the agent's own; never used twice
    key: Key
    function: Digest
    args: bytes
    inputs: tuple[bytes | ValueFile | int, ...] = ()
    terms: RunTerms | None = None


class Packet(msgspec.Struct, array_like=True, gc=False):
    """Tasks for one thread of an executor, in order."""

    number: int
    tasks: list[Task]
    path: str = ""  #: the packet lies in this file instead, because it is large


class Again(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """The task did not end; it wants to be run again. As in `Continue`."""

    delay: float = 0.0
    retries: int = 0
    args: bytes | None = None
    inputs: list[Key] = []
    failure: Failure | None = None
    options: dict[str, Any] | None = None
    request: bytes | None = None


class Result(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """What a task came to: a value, a failure, inputs that weren't there, or nothing because an input failed."""

    number: int
    duration: int  #: microseconds in user code
    cost: int = 0  #: microseconds in all
    nbytes: int = 0
    value: bytes | None = None
    type: str = ""
    path: str = ""
    failure: Failure | None = None
    missing: list[int] | None = None  #: places of inputs whose files are gone
    again: Again | None = None
    not_run: bool = False  #: an earlier task of the packet, whose result it needs, has none
    futures: list[Key] | None = None  #: keys of futures inside the value
    started: int = 0  #: microseconds since 1970 when user code began; 0 if it didn't


class Control(msgspec.Struct, array_like=True, tag_field="tag"):
    """Base of what travels on the control socket."""


class Setup(Control, tag=1):
    """To an executor, first of all."""

    worker: str
    worker_id: str
    store: str
    threads: int
    folder: str  #: for this executor's files, inside the store
    crumbs: str  #: path of the breadcrumb file; empty: none, because it is a thread of the agent
    resources: dict[str, float] = {}
    path: list[str] = []  #: for the end of sys.path
    log_level: str = ""  #: empty: what tasks log is the user's own business
    log_format: str = "text"
    app: str = ""  #: what ``-A`` names
    cluster: str = ""
    broker_is_local: bool = False  #: whether the broker's address is on loopback
    room: str = ""  #: path of the file with the bytes that a value in memory may have
    disk: str = ""  #: folder for larger ones
    output: bool = False  #: whether what tasks print is noted
    arguments: bool = False  #: whether arguments and results of tasks are put in words
    reuse: bool = False  #: whether freed files of the store may be written again


class ReturnRest(Control, tag=2):
    """To an executor: report what is done, and hand back what its packets hold that hasn't begun."""


class Call(Control, tag=3):
    """To an executor: call a function beside its tasks."""

    number: int
    code: bytes
    args: bytes


class Stop(Control, tag=4):
    """To an executor: end orderly; the sockets close next."""


class Trim(Control, tag=5):
    """To an executor: give back memory that isn't used."""


class Away(Control, tag=13):
    """From an executor: this task waits for others, or has seceded; it takes no slot."""

    task: int


class Returning(Control, tag=14):
    """From an executor: a task that was away runs again, or will as soon as a slot is free."""

    task: int


class LinkWanted(Control, tag=15):
    """From an executor, with a socket: its end of a link of the client ``name``."""

    name: str


class LinkOpened(Control, tag=20):
    """On a link's socket, to the executor, first of all: what the agent's own link to the broker can do."""

    mandatory: bool
    peer_death: bool
    max_message: int
    inbox: str  #: queue to which answers are to be sent


class LinkBody(Control, tag=21):
    """On a link's socket, to the executor: an envelope."""

    body: bytes


class LinkReturned(Control, tag=22):
    """On a link's socket, to the executor: there is no such queue (any more)."""

    destination: str


class LinkBlocked(Control, tag=23):
    """On a link's socket, to the executor: the broker asks to stop sending, or to go on."""

    is_blocked: bool


class LinkSend(Control, tag=24):
    """On a link's socket, from the executor: an envelope for the scheduler."""

    destination: str
    body: bytes
    durable: bool = False
    mandatory: bool = False


class Ready(Control, tag=10):
    """From an executor: it takes packets."""

    pid: int


class Rest(Control, tag=11):
    """From an executor: these tasks haven't begun and won't."""

    numbers: list[int]


class Called(Control, tag=12):
    """From an executor: what a call came to."""

    number: int
    value: bytes | None = None
    failure: Failure | None = None


class Look(Control, tag=30):
    """To an executor: say what it sees; answered by Seen."""

    number: int
    topic: str
    about: Any = None


class Seen(Control, tag=31):
    """From an executor: plain data, that anybody may open."""

    number: int
    view: Any = None


class Saying(Control, tag=40):
    """From an executor: for the scheduler, as in `Said`."""

    topic: str
    key: Key = ""
    about: Any = None


_encode = msgspec.msgpack.Encoder().encode
encode_packet = _encode
encode_results = _encode
decode_packet = msgspec.msgpack.Decoder(Packet).decode
#: results, or the path of the file they are in
decode_results = msgspec.msgpack.Decoder(list[Result] | str).decode
_decode_control = msgspec.msgpack.Decoder(
    Setup | ReturnRest | Call | Stop | Trim | Ready | Rest | Called | Away | Returning | Saying
    | LinkWanted | LinkOpened | LinkBody | LinkReturned | LinkBlocked | LinkSend | Look | Seen
).decode  # fmt: skip


def encode_control(record: Control) -> bytes:
    """A record with its length before it."""
    body = _encode(record)
    return LENGTH.pack(len(body)) + body


def take_controls(buffer: bytearray) -> list[Control]:
    """Remove the complete records from the front of ``buffer`` and return them."""
    records: list[Control] = []
    start = 0
    while len(buffer) - start >= LENGTH.size:
        (length,) = LENGTH.unpack_from(buffer, start)
        end = start + LENGTH.size + length
        if len(buffer) < end:
            break
        records.append(_decode_control(bytes(buffer[start + LENGTH.size : end])))
        start = end
    del buffer[:start]
    return records
