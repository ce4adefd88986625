"""Small plain data that clients keep at the scheduler under keys, nested as they like, and find again (sans-IO)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from futurebroker.scheduler import recording
from futurebroker.scheduler.state import SchedulerState

#: bytes that all of it may have, about; a value; keys from the outermost to the innermost, and characters of one
TOTAL_LIMIT = 4 * 1024 * 1024
VALUE_LIMIT = 256 * 1024
DEPTH = 32
KEY_LENGTH = 255

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_LENGTH)] | int
_Path = Annotated[list[_Name], msgspec.Meta(min_length=1, max_length=DEPTH)]


class _Setting(msgspec.Struct):
    keys: _Path
    value: Any = None


def _read(kind: Any, about: Any) -> Any:
    try:
        return msgspec.convert(about, kind)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"keys are texts of 1 to {KEY_LENGTH} characters or whole numbers, at most {DEPTH} of them: {error}"
        ) from None


def _size(value: Any) -> int:
    return len(msgspec.msgpack.encode(value))


def _copy(value: Any) -> Any:
    """What isn't changed when something is set below it; facts and answers are encoded later."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


def set_metadata(state: SchedulerState, about: Any) -> None:
    """Keep a value; what stands in the way of its path and has no keys is replaced."""
    given = _read(_Setting, about)
    size = _size(given.value)
    if size > VALUE_LIMIT:
        raise ValueError(f"a value has {size:,} bytes, and may have {VALUE_LIMIT:,}")
    kept = state.metadata
    place, last = kept.data, len(given.keys) - 1
    added = size + _size(given.keys)
    for depth, key in enumerate(given.keys):
        if key not in place:
            break
        there = place[key]
        if depth == last or not isinstance(there, dict):
            added = size - _size(there) if depth == last else added - _size(there)
            break
        place = there
    if kept.nbytes + added > TOTAL_LIMIT:
        kept.nbytes = _size(kept.data)  # keys that are there were counted for each value below them
    if kept.nbytes + added > TOTAL_LIMIT:
        raise ValueError(f"with this there would be more than {TOTAL_LIMIT:,} bytes; delete_metadata makes room")
    kept.nbytes += added
    place = kept.data
    for key in given.keys[:-1]:
        inner = place.get(key)
        if not isinstance(inner, dict):
            inner = place[key] = {}
        place = inner
    place[given.keys[-1]] = _copy(given.value)


def get_metadata(state: SchedulerState, keys: Any) -> list[Any]:
    """``[value]``, or nothing if there is none."""
    place: Any = state.metadata.data
    for key in _read(_Path, keys):
        if not isinstance(place, dict) or key not in place:
            return []
        place = place[key]
    return [_copy(place)]


def delete_metadata(state: SchedulerState, keys: Any) -> bool:
    """Forget a value and what is below it; whether there was one."""
    *outer, last = _read(_Path, keys)
    place: Any = state.metadata.data
    for key in outer:
        place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        return False
    del place[last]
    state.metadata.nbytes = _size(state.metadata.data) if state.metadata.data else 0
    return True


def dump(state: SchedulerState) -> Any:
    """For a checkpoint."""
    return [state.metadata.data, state.metadata.nbytes]


def load(state: SchedulerState, value: Any) -> None:
    """Take in what `dump` gave."""
    state.metadata.data, state.metadata.nbytes = value


#: see `requests.QUESTIONS`
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "set_metadata": set_metadata,
    "get_metadata": get_metadata,
    "delete_metadata": delete_metadata,
}
recording.KEPT_TOPICS.update(("set_metadata", "delete_metadata"))
