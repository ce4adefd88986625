"""Who may join a cluster, and what may be said: bounds on what peers tell, each with the sentence that refuses it."""

from __future__ import annotations

import math
import sys
from typing import Annotated, Any

import msgspec

from futurebroker.protocol.messages import PROTOCOL, Hello, TaskOptions
from futurebroker.types import Key, Role

#: bytes a queue's name may have in AMQP
QUEUE_BYTES = 255
#: bytes of what a peer tells of itself
INFO_BYTES = 64 * 1024
#: characters of a name that tasks are counted by
NAME_LENGTH = 255
#: characters a key may have
KEY_LENGTH = 1024
#: keys a message may name
KEYS_PER_MESSAGE = 100_000
#: bytes of a task's options
OPTIONS_BYTES = 64 * 1024
#: tasks a worker may run at a time
SLOTS_MAX = 65_536

_Name = Annotated[str, msgspec.Meta(max_length=NAME_LENGTH)]


class _WorkerInfo(msgspec.Struct):
    """What the machine reads of a worker's info."""

    name: _Name | None = None
    host: _Name | None = None
    slots: Annotated[int, msgspec.Meta(ge=0, le=SLOTS_MAX)] | None = None
    resources: dict[_Name, Annotated[float, msgspec.Meta(ge=0)]] | None = None


def misfit(role: Role, hello: Hello) -> str:
    """Why this peer can't take part; empty if it can."""
    if hello.protocol != PROTOCOL:
        return (
            f"it speaks protocol {hello.protocol} and the scheduler {PROTOCOL}; install the same futurebroker on both"
        )
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if hello.python != ours:
        return (
            f"it runs Python {hello.python[:20]} and the scheduler Python {ours}; "
            "pickled code needs the same minor version"
        )
    size = len(hello.inbox.encode())
    if size > QUEUE_BYTES:
        return f"the name of its queue has {size:,} bytes, and may have {QUEUE_BYTES}; give it a shorter name"
    size = len(msgspec.msgpack.encode(hello.info))
    if size > INFO_BYTES:
        return f"what it tells of itself has {size:,} bytes, and may have {INFO_BYTES:,}"
    return _odd_info(hello.info) if role is Role.WORKER else ""


def _odd_info(info: dict[str, Any]) -> str:
    try:
        worker = msgspec.convert(info, _WorkerInfo)
    except msgspec.ValidationError as error:
        return f"what it tells of itself can't be used: {error}"
    if not all(math.isfinite(amount) for amount in (worker.resources or {}).values()):
        return "what it tells of itself can't be used: an amount of its resources is no number"
    return ""


def round_trip(metrics: dict[str, Any]) -> float | None:
    """The round trip a worker measured, in seconds; None if it says none that could be true."""
    trip = metrics.get("round_trip")
    if isinstance(trip, (int, float)) and 0 <= trip < math.inf:
        return float(trip)
    return None


def bad_key(key: Key) -> str:
    """Why a task can't have this key; empty if it can."""
    if 0 < len(key) <= KEY_LENGTH:
        return ""
    return f"a key has 1 to {KEY_LENGTH:,} characters, and this one {len(key):,}"


def bad_options(options: TaskOptions | None) -> str:
    """Why no task can have these options; empty if one can."""
    if options is None:
        return ""
    size = len(msgspec.msgpack.encode(options))
    if size > OPTIONS_BYTES:
        return f"its options have {size:,} bytes, and may have {OPTIONS_BYTES:,}"
    if not all(0 <= amount < math.inf for amount in (options.resources or {}).values()):
        return "an amount of its resources is negative or no number"
    return ""
