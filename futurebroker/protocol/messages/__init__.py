"""Every message, one record each; a module for each direction.

A record is encoded as a MessagePack array that starts with its tag. Fields named ``code``, ``args``, ``value`` and
``payload`` are opaque bytes made by `serialize`; the scheduler and the agents pass them on and never open them. Fields
may be added at the end with a default; anything else needs a new `PROTOCOL`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from futurebroker.exceptions import ProtocolError
from futurebroker.protocol.messages.data import DataEnough, DataPart, DataWanted
from futurebroker.protocol.messages.from_client import (
    AddFunction,
    Ask,
    Cancel,
    Detach,
    EndGraph,
    GiveFailure,
    PutFile,
    PutPart,
    PutValue,
    Release,
    Retry,
    RunOnWorkers,
    Submit,
    Want,
)
from futurebroker.protocol.messages.from_worker import (
    Erred,
    ExecutorDied,
    Finished,
    FunctionCalled,
    GaveBack,
    InputsMissing,
    Inventory,
    NotStored,
    ResultHolds,
    Stored,
    TaskAway,
    TaskReturned,
)
from futurebroker.protocol.messages.meeting import (
    Goodbye,
    Heard,
    Heartbeat,
    HeartbeatWanted,
    Hello,
    LookedFor,
    LookFor,
    MeetAgain,
    Refused,
    Welcome,
)
from futurebroker.protocol.messages.memory import DataLost, Happened
from futurebroker.protocol.messages.operating import (
    CallExecutors,
    ExecutorsAnswered,
    FromPeer,
    Inspect,
    Parcel,
    ParcelPart,
    ParcelWanted,
    Prepare,
    RanOnExecutors,
    RanOnScheduler,
    RestartExecutors,
    RunOnExecutors,
    RunOnScheduler,
    Settled,
    StandingGiven,
    StandingWanted,
    ToPeer,
)
from futurebroker.protocol.messages.parts import (
    INLINE_LIMIT,
    KEEP_LIMIT,
    PROTOCOL,
    Failure,
    Held,
    Message,
    Part,
    TaskOptions,
)
from futurebroker.protocol.messages.terms import (
    Await,
    Conditions,
    Continue,
    Kill,
    OnFailure,
    PlannedCall,
    Resize,
    RunTerms,
    Said,
)
from futurebroker.protocol.messages.to_client import (
    Answer,
    DetachedEnded,
    KeyCancelled,
    KeyErred,
    KeyFinished,
    KeyLost,
    Published,
    RanOnWorkers,
)
from futurebroker.protocol.messages.to_worker import (
    Adopt,
    AdoptFile,
    CallFunction,
    Drop,
    Free,
    GiveBack,
    Leave,
    Replicate,
    Run,
    Store,
    StorePart,
)

__all__ = [
    "AddFunction",
    "Adopt",
    "AdoptFile",
    "Answer",
    "Ask",
    "Await",
    "CallExecutors",
    "CallFunction",
    "Cancel",
    "Conditions",
    "Continue",
    "DECODERS",
    "DataEnough",
    "DataLost",
    "DataPart",
    "DataWanted",
    "Detach",
    "DetachedEnded",
    "Drop",
    "EndGraph",
    "GiveFailure",
    "Erred",
    "ExecutorDied",
    "ExecutorsAnswered",
    "Failure",
    "Finished",
    "Free",
    "FromClient",
    "FromPeer",
    "FromWorker",
    "FunctionCalled",
    "GaveBack",
    "GiveBack",
    "Goodbye",
    "Happened",
    "Heard",
    "Heartbeat",
    "HeartbeatWanted",
    "Held",
    "Hello",
    "INLINE_LIMIT",
    "InputsMissing",
    "Inspect",
    "Inventory",
    "KEEP_LIMIT",
    "KeyCancelled",
    "KeyErred",
    "KeyFinished",
    "KeyLost",
    "Kill",
    "Leave",
    "LookFor",
    "LookedFor",
    "MeetAgain",
    "Message",
    "NotStored",
    "OnFailure",
    "PROTOCOL",
    "Parcel",
    "ParcelPart",
    "ParcelWanted",
    "Part",
    "PlannedCall",
    "Prepare",
    "Published",
    "PutFile",
    "PutPart",
    "PutValue",
    "RanOnExecutors",
    "RanOnScheduler",
    "RanOnWorkers",
    "Refused",
    "Release",
    "Replicate",
    "Resize",
    "RestartExecutors",
    "ResultHolds",
    "Retry",
    "Run",
    "RunOnExecutors",
    "RunOnScheduler",
    "RunOnWorkers",
    "RunTerms",
    "Said",
    "Settled",
    "StandingGiven",
    "StandingWanted",
    "Store",
    "StorePart",
    "Stored",
    "Submit",
    "TaskAway",
    "TaskOptions",
    "TaskReturned",
    "ToClient",
    "ToPeer",
    "ToWorker",
    "Want",
    "Welcome",
    "decode",
    "encode",
]

FromClient = (
    AddFunction | Submit | EndGraph | GiveFailure | Release | Want | Cancel | Retry | Detach | PutValue | PutFile
    | PutPart | Ask | RunOnWorkers | DataWanted | DataPart | DataEnough | Hello | Heartbeat | Goodbye
    | RunOnExecutors | RunOnScheduler | ParcelPart | ToPeer
    | OnFailure | Await
)  # fmt: skip
FromWorker = (
    Finished | Erred | ExecutorDied | GaveBack | InputsMissing | Stored | NotStored | FunctionCalled | Inventory
    | TaskAway | TaskReturned | ResultHolds | LookedFor | Continue | Said
    | DataWanted | DataPart | DataEnough | DataLost | Happened | Hello | Heartbeat | Goodbye
    | ExecutorsAnswered | Settled | ParcelWanted | ParcelPart | StandingGiven
)  # fmt: skip
ToWorker = (
    AddFunction | Run | Adopt | Free | Drop | GiveBack | Store | AdoptFile | StorePart | Replicate | CallFunction
    | Leave | DataWanted | DataPart | Welcome | Refused | Heard | MeetAgain | HeartbeatWanted | LookFor | Kill | Resize
    | CallExecutors | Inspect | RestartExecutors | Prepare | ParcelPart | ParcelWanted | StandingWanted
)  # fmt: skip
ToClient = (
    KeyFinished | KeyErred | KeyCancelled | KeyLost | DetachedEnded | Answer | RanOnWorkers
    | DataWanted | DataPart | Welcome | Refused | Heard | MeetAgain | HeartbeatWanted
    | RanOnExecutors | RanOnScheduler | FromPeer | Published
)  # fmt: skip

#: by direction
DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "from_client": msgspec.msgpack.Decoder(list[FromClient]),
    "from_worker": msgspec.msgpack.Decoder(list[FromWorker]),
    "to_worker": msgspec.msgpack.Decoder(list[ToWorker]),
    "to_client": msgspec.msgpack.Decoder(list[ToClient]),
}


#: the bytes of several messages, to be the body of one envelope
encode: Callable[[list[Message]], bytes] = msgspec.msgpack.Encoder().encode


def decode(direction: str, body: bytes | memoryview) -> list[Any]:
    """The messages of a body of ``direction``, a key of `DECODERS`; raises ProtocolError if it isn't one."""
    try:
        return DECODERS[direction].decode(body)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a body that is no list of messages {direction.replace('_', ' ')}: {error}") from error
