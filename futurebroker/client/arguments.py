"""Arguments to bytes: futures in them become references, and large ones become data that is sent once.

Most calls have a few small plain arguments; these cost one pickle and a look at their types. Futures are found on
their own and inside lists, tuples, sets, frozensets, dict values and named tuples of exactly these types, nested as
deep as they like; not in dict keys nor in attributes of other objects (as in dask.distributed).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Final, TypeAlias

from futurebroker.client.futures import CANCELLED, ChunkFuture, Future, Keeper
from futurebroker.exceptions import CancelledError, MessageTooLargeError, SerializationError
from futurebroker.graph import Ref
from futurebroker.protocol.messages import INLINE_LIMIT
from futurebroker.protocol.refs import TaskRef
from futurebroker.protocol.serialize import Buffer, dump_frames, dumps, frames_size
from futurebroker.types import Key

#: types that hold no future and nothing of ``__main__``, so that plain pickle does
SCALARS: Final = frozenset({int, float, str, bytes, bool, complex, type(None)})
#: bytes the arguments of one call may have once large ones are taken out
CALL_LIMIT = 4 * 1024 * 1024
_INTS: Final = frozenset({int})
_CONTAINERS: Final = frozenset({list, tuple, set, frozenset, dict})

#: makes data of a large argument: (what it is, its frames, the bytes of these) -> a future of it
Mover: TypeAlias = Callable[[str, list[Buffer], int], Future[Any]]
#: gives the future that stands for one part of a chunk
Splitter: TypeAlias = Callable[[ChunkFuture[Any]], Future[Any]]

_dumps = pickle.dumps

#: the pickle of ``((number,), {})`` for 32 bits: what comes before the number, its four bytes, what comes after; in a
#: third of the time that pickling it takes, and half of the bytes
_NUMBER = struct.Struct("<3si4s").pack
_BEFORE: Final = pickle.PROTO + b"\x05" + pickle.BININT
_AFTER: Final = pickle.TUPLE1 + pickle.EMPTY_DICT + pickle.TUPLE2 + pickle.STOP


def pack_scalars(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The arguments of a call, all of `SCALARS`, as bytes."""
    if len(args) == 1 and not kwargs and type(args[0]) is int:
        try:
            return _NUMBER(_BEFORE, args[0], _AFTER)
        except struct.error:
            pass  # more than 32 bits
    return _dumps((args, kwargs), 5)


def pack_column(rows: list[tuple[Any, ...]], kwargs: dict[str, Any]) -> list[bytes] | None:
    """The arguments of many calls as bytes, one a call; None if they are not all of `SCALARS`."""
    types = set(map(type, chain.from_iterable(rows)))
    if not types <= SCALARS or not SCALARS.issuperset(map(type, kwargs.values())):
        return None
    if types == _INTS and len(rows[0]) == 1 and not kwargs:
        try:
            return [_NUMBER(_BEFORE, number, _AFTER) for (number,) in rows]
        except struct.error:
            pass  # one has more than 32 bits
    return [_dumps((row, kwargs), 5) for row in rows]


class Packed:
    """The arguments of a call: bytes, the keys they refer to, and the data that was made of large ones."""

    __slots__ = ("data", "dependencies", "inputs")

    def __init__(self, data: bytes, dependencies: tuple[Key, ...] | None, inputs: tuple[Future[Any], ...]) -> None:
        self.data = data
        self.dependencies = dependencies
        self.inputs = inputs


class References:
    """Collects the futures of one call; the same key gets the same number."""

    __slots__ = ("_active", "_keeper", "_split", "found", "inputs")

    def __init__(self, keeper: Keeper, split: Splitter) -> None:
        self._keeper = keeper
        self._split = split
        self._active: set[int] = set()
        self.found: dict[Key, TaskRef] = {}
        #: futures that only this call holds
        self.inputs: list[Future[Any]] = []

    def to(self, future: Future[Any]) -> TaskRef:
        """The reference that stands for ``future`` in the arguments.

        Raises:
            ValueError: it belongs to another client.
            CancelledError: it was cancelled, so the call could never run.
        """
        if isinstance(future, ChunkFuture):
            future = self._split(future)
            self.inputs.append(future)
        state = future._state
        if state.keeper is not self._keeper:
            raise ValueError(f"{future!r} belongs to another client; gather it there and pass the result")
        if state.status is CANCELLED:
            raise CancelledError(f"{state.key} was cancelled, so what depends on it can't be submitted")
        found = self.found.get(state.key)
        if found is None:
            found = self.found[state.key] = TaskRef(len(self.found))
        return found

    def to_key(self, key: Key) -> TaskRef:
        """The reference that stands for the result of a task of which nothing but the key is here."""
        found = self.found.get(key)
        if found is None:
            found = self.found[key] = TaskRef(len(self.found))
        return found

    def replace(self, value: Any) -> Any:
        """``value`` with each future in it replaced; the same object when there is none."""
        kind = type(value)
        if kind in SCALARS:
            return value
        if isinstance(value, Future):
            return self.to(value)
        if kind not in _CONTAINERS and not _is_named_tuple(value):
            key = getattr(kind, "__task_key__", None)
            return value if key is None else self.to_key(key(value))
        if id(value) in self._active:
            return value  # it contains itself
        items = value.values() if kind is dict else value
        if SCALARS.issuperset(map(type, items)):
            return value
        self._active.add(id(value))
        try:
            replaced = [self.replace(item) for item in items]
        finally:
            self._active.discard(id(value))
        if all(new is old for new, old in zip(replaced, items)):
            return value
        if kind is dict:
            return dict(zip(value, replaced))
        return kind._make(replaced) if kind not in _CONTAINERS else kind(replaced)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields") and hasattr(value, "_make")


def pack(
    keeper: Keeper,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    move: Mover,
    split: Splitter,
) -> Packed:
    """The arguments of a call of the function ``name``.

    Raises:
        SerializationError: one of them can't be pickled; the message says which.
        MessageTooLargeError: they are too large although nothing in them can be moved as data.
    """
    if not kwargs:
        for value in args:
            if type(value) not in SCALARS:
                break
        else:
            data = pack_scalars(args, kwargs)
            if len(data) <= INLINE_LIMIT:
                return Packed(data, None, ())
    references = References(keeper, split)
    data, new_args, new_kwargs = _dump(references, name, args, kwargs)
    if len(data) > INLINE_LIMIT:
        data = _pack_large(references, name, args, kwargs, new_args, new_kwargs, move)
    dependencies = tuple(references.found) if references.found else None
    return Packed(data, dependencies, tuple(references.inputs))


def _dump(
    references: References, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bytes, tuple[Any, ...], dict[str, Any]]:
    """The arguments pickled, and themselves, with a reference in the place of each future."""
    new_args = tuple([references.replace(value) for value in args])
    new_kwargs = {key: references.replace(value) for key, value in kwargs.items()}
    try:
        data = dumps((new_args, new_kwargs))
    except SerializationError as error:
        raise _guilty(name, new_args, new_kwargs, error) from error
    return data, new_args, new_kwargs


class PlannedReferences(References):
    """Finds references to calls of one graph as well."""

    def replace(self, value: Any) -> Any:
        return self.to_key(value.key) if isinstance(value, Ref) else super().replace(value)


def pack_planned(keeper: Keeper, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], split: Splitter) -> Packed:
    """As `pack`, of a call that is sent beside others of its graph and may never be made; nothing is moved as data."""
    references = PlannedReferences(keeper, split)
    data, _, _ = _dump(references, name, args, kwargs)
    if len(data) > CALL_LIMIT:
        raise MessageTooLargeError(f"a call of {name}", len(data), CALL_LIMIT)
    return Packed(data, tuple(references.found), ())


def pack_values(
    keeper: Keeper, name: str, values: tuple[Any, ...], keys: tuple[Key, ...], move: Mover, split: Splitter
) -> Packed:
    """The arguments of a call in which `TaskRef` stand for ``keys`` already; the large ones are made data."""
    references = References(keeper, split)
    references.found = {key: TaskRef(index) for index, key in enumerate(keys)}
    data = _pack_large(references, name, values, {}, values, {}, move)
    return Packed(data, tuple(references.found) or None, tuple(references.inputs))


def _pack_large(
    references: References,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    new_args: tuple[Any, ...],
    new_kwargs: dict[str, Any],
    move: Mover,
) -> bytes:
    """Large arguments made data; one that holds futures stays, because data can't refer to tasks."""

    def place(what: str, old: Any, new: Any) -> Any:
        if new is not old or (type(new) in SCALARS and not isinstance(new, (str, bytes))):
            return new
        frames = dump_frames(new, what)
        size = frames_size(frames)
        if size <= INLINE_LIMIT:
            return new
        future = move(what, frames, size)
        references.inputs.append(future)
        return references.to(future)

    placed = tuple([place(_place_name(name, i), old, new) for i, (old, new) in enumerate(zip(args, new_args))])
    placed_kwargs = {key: place(_place_name(name, key), kwargs[key], new) for key, new in new_kwargs.items()}
    data = dumps((placed, placed_kwargs))
    if len(data) > CALL_LIMIT:
        raise MessageTooLargeError(f"a call of {name}, without what is moved as data,", len(data), CALL_LIMIT)
    return data


def _guilty(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: SerializationError) -> SerializationError:
    """The error for arguments that can't be pickled, naming the first of them that is to blame."""
    parts: Iterable[tuple[str, Any]] = [
        *((_place_name(name, i), value) for i, value in enumerate(args)),
        *((_place_name(name, key), value) for key, value in kwargs.items()),
    ]
    for what, value in parts:
        try:
            dump_frames(value, f"{what} ({_short(value)})")
        except SerializationError as named:
            return named
    return SerializationError(f"the arguments of {name}", error.cause)


def _place_name(name: str, place: int | str) -> str:
    return f"argument {place + 1} of {name}" if isinstance(place, int) else f"argument {place}= of {name}"


def _short(value: object) -> str:
    """What an error calls a value whose own repr may be long, or raise."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - any class of the user's may be broken
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
