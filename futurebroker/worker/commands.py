"""Events that go into the worker's machine, and instructions that come out; messages to the scheduler come out too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from futurebroker.protocol.messages import Failure, Message, ParcelPart, ParcelWanted, Prepare, RestartExecutors
from futurebroker.types import Digest, Key
from futurebroker.worker.packets import Packet, Result

# -- events --------------------------------------------------------------------------------------------------------


class Delivered(msgspec.Struct, gc=False):
    """Messages of the scheduler."""

    messages: list[Any]


class Reported(msgspec.Struct, gc=False):
    """An executor reports."""

    executor: int
    results: list[Result]


@dataclass(slots=True)
class ExecutorReady:
    """An executor takes packets."""

    executor: int
    threads: int


@dataclass(slots=True)
class ExecutorEnded:
    """An executor is gone; ``running`` are the numbers of the tasks its threads ran last."""

    executor: int
    running: list[int]
    how: str
    expected: bool = False  #: the agent ended it, and nothing that ran there is to blame


@dataclass(slots=True)
class Recalled:
    """These packets were taken back before the executor read them."""

    executor: int
    packets: list[int]


@dataclass(slots=True)
class RestReturned:
    """An executor hands back tasks it hasn't begun."""

    executor: int
    numbers: list[int]


@dataclass(slots=True)
class TaskLeft:
    """A task waits for others, or has seceded: it takes no slot of its executor's."""

    executor: int
    number: int


@dataclass(slots=True)
class TaskBack:
    """A task that had left takes a slot again."""

    executor: int
    number: int


@dataclass(slots=True)
class CallEnded:
    """What a call out of line came to."""

    number: int
    value: bytes | None
    failure: Failure | None
    executor: int = 0


@dataclass(slots=True)
class Inspected:
    """What an executor saw that was asked to look; the agent is number 0."""

    executor: int
    number: int
    view: Any


@dataclass(slots=True)
class Retire:
    """This executor gets nothing more; once it has nothing to do, `ExecutorIdle` says so."""

    executor: int


@dataclass(slots=True)
class Probed:
    """Whether another worker's file can be opened here."""

    key: Key
    path: str
    ok: bool


@dataclass(slots=True)
class Taken:
    """What `TakeFile` came to; ``reason`` is empty when the file is ours now."""

    key: Key
    target: str
    reason: str


@dataclass(slots=True)
class WriteFailed:
    """The disk didn't take what was to be written to ``path``."""

    path: str
    reason: str


@dataclass(slots=True)
class Pulled:
    """What `Pull` came to; ``nbytes`` is -1 where it failed, and ``missing`` says that the holder doesn't have it."""

    key: Key
    transfer: int
    path: str
    nbytes: int
    data: bytes | None = None  #: the value itself, when it is small
    missing: bool = False
    reason: str = ""


@dataclass(slots=True)
class BulkInbox:
    """Where parts of results can be sent to us past the scheduler from now on; empty: nowhere."""

    inbox: str


@dataclass(slots=True)
class Written:
    """All that was to be written to ``path`` is there."""

    path: str


@dataclass(slots=True)
class Measured:
    """Bytes of memory that are the agent's own and each executor's: mapped files don't count."""

    agent: int
    executors: dict[int, int]
    freed: int = 0  #: those of freed files that are kept for other values
    stalled: float = 0.0  #: part of the last seconds in which nothing went on for want of memory


@dataclass(slots=True)
class Spilled:
    """What `Spill` came to; ``reason`` is empty when the value is at ``target`` now."""

    key: Key
    path: str
    target: str
    reason: str = ""
    is_mapped: bool = False  #: it was left in memory because some process has it mapped


@dataclass(slots=True)
class Damaged:
    """The file of a value of ours can't be read, or holds something else than was written."""

    key: Key
    path: str
    reason: str


@dataclass(slots=True)
class Tick:
    """The machine's ``wake_at`` has come."""


@dataclass(slots=True)
class Drain:
    """Begin nothing more; hand back what hasn't begun."""


@dataclass(slots=True)
class Fresh:
    """Another scheduler took us in and knows nothing of what we have."""


Event = (
    Delivered | Reported | ExecutorReady | ExecutorEnded | Recalled | RestReturned | TaskLeft | TaskBack | CallEnded
    | Probed | Taken | Pulled | BulkInbox | WriteFailed | Written | Measured | Spilled | Damaged | Tick | Drain | Fresh
    | Inspected | Retire
)  # fmt: skip

# -- instructions --------------------------------------------------------------------------------------------------


class SendPacket(msgspec.Struct, gc=False):
    """Give an executor tasks."""

    executor: int
    packet: Packet


@dataclass(slots=True)
class Recall:
    """Take back what the executor hasn't read; answered by Recalled, at once."""

    executor: int


@dataclass(slots=True)
class Grow:
    """Have so many executors more, or fewer; each that is too many is ended by an instruction of its own."""

    more: int


@dataclass(slots=True)
class AskRest:
    """Have the executor report, and hand back what it hasn't begun of its packets; answered by RestReturned."""

    executor: int


@dataclass(slots=True)
class CallOut:
    """Have the executor call a function beside its tasks; answered by CallEnded."""

    executor: int
    number: int
    code: bytes
    args: bytes


@dataclass(slots=True)
class InspectOut:
    """Have the executor look; answered by Inspected."""

    executor: int
    number: int
    topic: str
    about: Any


@dataclass(slots=True)
class InspectAgent:
    """Look into the agent itself; answered by Inspected."""

    number: int
    topic: str
    about: Any


@dataclass(slots=True)
class ExecutorIdle:
    """An executor that was retired has nothing to do any more."""

    executor: int


@dataclass(slots=True)
class Operate:
    """A message about the executors' software, for the agent; answered by Settled, where it asks for that."""

    message: RestartExecutors | Prepare | ParcelPart | ParcelWanted


@dataclass(slots=True)
class KeepFunction:
    """Write a function to where executors look for it."""

    digest: Digest
    code: bytes


@dataclass(slots=True)
class Probe:
    """Try whether a file of another worker can be opened here; answered by Probed."""

    key: Key
    path: str


@dataclass(slots=True)
class Pull:
    """Fetch a value of about ``nbytes`` by a connection to its holder, to ``path`` if large; answered by Pulled."""

    key: Key
    transfer: int
    address: str
    path: str
    nbytes: int


@dataclass(slots=True)
class OpenBulk:
    """Have a connection for parts of results; answered by BulkInbox."""


@dataclass(slots=True)
class TakeFile:
    """Make a file our own under the path ``target``, by moving or linking it; answered by Taken."""

    key: Key
    path: str
    target: str
    move: bool


@dataclass(slots=True)
class WritePart:
    """Write bytes of a value's file, which has ``nbytes`` in all.

    Answered by WriteFailed if that fails, and for the last to come by Written.
    """

    path: str
    offset: int
    data: bytes
    nbytes: int
    last: bool = False


@dataclass(slots=True)
class SendPart:
    """Answer a DataWanted from a file."""

    transfer: int
    key: Key
    asker: str
    path: str
    offset: int
    length: int
    nbytes: int
    attempt: int = 0
    inbox: str = ""  #: as of the DataWanted


@dataclass(slots=True)
class Unlink:
    """Delete a file of ours, or keep it for another value."""

    path: str


@dataclass(slots=True)
class KeepFreed:
    """Of files that could be deleted, keep no more than so many bytes for other values."""

    most: int


@dataclass(slots=True)
class Spill:
    """Copy a value, a file or bytes, to a sealed file at ``target``; answered by Spilled."""

    key: Key
    path: str
    data: bytes | None
    target: str


@dataclass(slots=True)
class Relink:
    """Put a link to ``target`` in the place of the file ``path``, whose memory is free then."""

    path: str
    target: str


@dataclass(slots=True)
class SetRoom:
    """Each executor may write values of so many bytes to memory."""

    nbytes: int


@dataclass(slots=True)
class SetPaused:
    """Tell the scheduler that no task is started, or that tasks are again."""

    paused: bool


@dataclass(slots=True)
class TrimExecutor:
    """Have an executor give back memory it doesn't use."""

    executor: int


@dataclass(slots=True)
class RecycleExecutor:
    """Replace an idle executor by a fresh one."""

    executor: int


@dataclass(slots=True)
class KillExecutor:
    """Kill an executor; ``how`` is what is said of its end."""

    executor: int
    how: str


@dataclass(slots=True)
class Drained:
    """After Drain: nothing runs any more."""


@dataclass(slots=True)
class LeaveNow:
    """The scheduler asked us to leave."""

    reason: str
    patience: float = 0.0
    hurry: bool = False


Instruction = (
    Message | SendPacket | Grow | Recall | AskRest | CallOut | KeepFunction | Probe | Pull | OpenBulk | TakeFile
    | WritePart | SendPart | Unlink | KeepFreed | Spill | Relink | SetRoom | SetPaused | TrimExecutor | RecycleExecutor
    | KillExecutor | Drained | LeaveNow | InspectOut | InspectAgent | ExecutorIdle | Operate
)  # fmt: skip
