"""What operators have set for all tasks of a name: how often they may begin, and how long they may run (sans-IO).

It outlives the scheduler as what every executor has does (see `standing`): each limit is a call that stands at the
workers and does nothing there, so that a scheduler which begins with nothing is told it by them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from futurebroker.protocol.messages import RunOnExecutors
from futurebroker.scheduler import rates, recording, standing
from futurebroker.scheduler.state import SchedulerState

#: names of such calls are this, the kind of limit and the tasks' name
WORD = "futurebroker.limit"
#: what executors call: ``bool`` of the bytes that say what the limit is
CALL = b"cbuiltins\nbool\n."
#: arguments for it, pickled: ``((bytes,), {})``, the length in between
_BEFORE, _AFTER = b"\x80\x03B", b"\x85}\x86."
_LENGTH = struct.Struct("<I")


def _rate(state: SchedulerState, name: str, per_second: float, for_all: bool) -> str:
    rates.set_rate(state, name, float(per_second), bool(for_all))
    return "new rate limit set successfully"


def _time(state: SchedulerState, name: str, soft: float, hard: float) -> str:
    if hard and soft > hard:
        raise ValueError(f"the soft limit of {soft:g} s must not be longer than the hard one of {hard:g} s")
    state.kind(name).limits = (float(soft), float(hard))
    return "time limits set successfully"


#: kind of limit -> what sets it
_SET: dict[str, Callable[..., str]] = {"rate_limit": _rate, "time_limit": _time}


def limit(state: SchedulerState, about: Any) -> dict[str, Any]:
    """Topic ``limit_tasks``: ``[kind, [name, *values]]``; what is said of each worker."""
    kind, (name, *values) = about
    if kind not in _SET:
        raise ValueError(f"there is no {kind!r}; there are {', '.join(_SET)}")
    said = _SET[kind](state, str(name), *values)
    told = msgspec.msgpack.encode(values)
    args = _BEFORE + _LENGTH.pack(len(told)) + told + _AFTER
    standing.spread(state, RunOnExecutors(0, CALL, args, keep=f"{WORD} {kind} {name}"))
    return {worker.name: {"ok": said} for worker in state.workers.values()}


def values_of(message: RunOnExecutors) -> Any:
    """What such a call says of its limit."""
    return msgspec.msgpack.decode(message.args[len(_BEFORE) + _LENGTH.size : -len(_AFTER)])


def taken(state: SchedulerState, message: RunOnExecutors) -> None:
    """A limit of a former scheduler's time: it holds again."""
    try:
        _, kind, name = message.keep.split(" ", 2)
        _SET[kind](state, name, *values_of(message))
    except (KeyError, TypeError, ValueError, msgspec.DecodeError):
        state.counters["unexpected"] += 1


standing.TAKERS[WORD] = taken
recording.KEPT_TOPICS.add("limit_tasks")
#: questions that are answered at once
TOPICS: dict[str, Callable[[SchedulerState, Any], Any]] = {"limit_tasks": limit}
