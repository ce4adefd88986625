"""Turns calls into futures: keys, options, arguments, and room at the scheduler."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import getitem
from typing import Any, Final

from futurebroker.client.arguments import SCALARS, Packed, pack, pack_column, pack_planned, pack_scalars
from futurebroker.client.calls import Call, PreparedColumn, leaving
from futurebroker.client.connection import Connection
from futurebroker.client.data import DataSender
from futurebroker.client.futures import CANCELLED, ChunkFuture, Future, Home, KeyState
from futurebroker.protocol.chunks import chunked
from futurebroker.protocol.messages import INLINE_LIMIT, Await, Conditions, Message, TaskOptions
from futurebroker.protocol.serialize import name_of
from futurebroker.protocol.wire import BATCH_BYTES, BATCH_MESSAGES
from futurebroker.types import Key

#: bytes above which what all calls of a `map` share is sent once
SHARED_LIMIT = 4 * 1024
#: calls of the first block of a `map`; each further one is twice as large, up to a message
FIRST_BLOCK = 16
_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_salt() -> str:
    """What the keys of one client have in common and no other client's have."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(8))


class Submitter:
    """Makes futures of calls for one connection; used from any thread."""

    def __init__(self, connection: Connection, salt: str, patience: float) -> None:
        self._connection = connection
        self.salt = salt
        self._home = Home(connection)
        self.data = DataSender(connection, self._home, salt, patience)
        #: the last function submitted without options; one attribute, so that threads see both or neither
        self._last: tuple[Any, Call | None] = (None, None)

    # -- one call ----------------------------------------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """A call without options: the shortest way."""
        connection = self._connection
        last, call = self._last
        if call is None or last is not function:
            call = Call.of(function, None, self.salt)
            self._last = (function, call)
        if kwargs or not SCALARS.issuperset(map(type, args)):
            return self._start(call, self._pack(call, args, kwargs))
        data = pack_scalars(args, kwargs)
        if len(data) > INLINE_LIMIT:
            return self._start(call, self._pack(call, args, kwargs))
        if connection.ended is not None:
            connection.check_open()
        intake = connection.intake
        number = next(intake.counter)
        if number - intake.settled > intake.max_tasks or intake.bytes > intake.max_bytes:
            connection.wait_for_room(number)
        key = f"{call.prefix}{number}"
        state = KeyState(key, self._home, len(data))
        connection.states[key] = state
        outbox = connection.outbox
        outbox.items.append((call, key, data, None))
        if not outbox.awake:
            outbox.wake()
        return Future(state)

    def submit_with(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions | None,
        key: Key | None,
        pure: bool,
    ) -> Future[Any]:
        """A call with options. A key that this client holds already gives a future of that, whatever is called."""
        if key is None and not pure:
            options = leaving(options)
        call = self._call(function, options)
        call.is_named = key is not None and not (options is not None and options.idempotent)
        return self._start_named(call, args, kwargs, checked_key(key), pure)

    def _start_named(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], key: Key | None, pure: bool
    ) -> Future[Any]:
        if key is not None:
            if call.is_named:
                self._connection.outbox.release()  # a future that is gone doesn't stand for the key any more
            known = self._known(key)
            if known is not None:
                return known
        packed = self._pack(call, args, kwargs)
        if key is None and pure:
            key = pure_key(call, packed)
        return self._start(call, packed) if key is None else self._start_keyed(call, packed, key)

    # -- many calls --------------------------------------------------------------------------------------------------

    def map(
        self,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        kwargs: dict[str, Any],
        options: TaskOptions | None,
        key: str | Sequence[Key] | None,
        pure: bool,
        chunksize: int,
    ) -> list[Future[Any]]:
        """See `Client.map`."""
        if not iterables:
            raise ValueError("map() takes at least one iterable after the function")
        if isinstance(chunksize, bool) or not isinstance(chunksize, int) or chunksize < 1:
            raise ValueError(f"chunksize= takes 1 or more, got {chunksize!r}")
        name = key if isinstance(key, str) else name_of(function) if callable(function) else ""
        keys = None if key is None or isinstance(key, str) else [checked_key(one) for one in key]
        if keys is None and not pure:
            options = leaving(options)
        kwargs = self._shared(name, kwargs)
        rows = zip(*iterables)
        if chunksize > 1:
            if keys is not None:
                raise ValueError("a list of keys names single calls; with chunksize= give a prefix, or nothing")
            call = self._call(chunked(function), options, name)
            return self._map_chunks(call, rows, kwargs, pure, chunksize)
        call = self._call(function, options, name)
        if keys is None and not pure:
            return self._map_columns(call, rows, kwargs)
        if keys is None:
            return [self._start_named(call, row, kwargs, None, pure) for row in rows]
        call.is_named = True
        all_rows = list(rows)
        if len(keys) != len(all_rows):
            raise ValueError(f"key= has {len(keys)} keys for {len(all_rows)} calls")
        return [self._start_named(call, row, kwargs, one, pure) for row, one in zip(all_rows, keys)]

    def _map_columns(self, call: Call, rows: Iterator[tuple[Any, ...]], kwargs: dict[str, Any]) -> list[Future[Any]]:
        """Calls in blocks, so that what one call costs is a few steps of loops; the first blocks are small."""
        futures: list[Future[Any]] = []
        size = FIRST_BLOCK
        while block := list(islice(rows, size)):
            column = pack_column(block, kwargs)
            started = None if column is None else self._start_column(call, column)
            futures += started or [self._start(call, self._pack(call, row, kwargs)) for row in block]
            size = min(size * 2, BATCH_MESSAGES)
        return futures

    def _start_column(self, call: Call, column: list[bytes]) -> list[Future[Any]] | None:
        """Start calls that depend on nothing; None if they are too large for one message, or there is no room."""
        connection = self._connection
        if connection.ended is not None:
            connection.check_open()
        sizes = list(map(len, column))
        total = sum(sizes)
        numbers = connection.intake.take(len(column)) if total <= BATCH_BYTES else None
        if numbers is None:
            return None
        prefix = call.prefix
        keys = [f"{prefix}{number}" for number in numbers]
        home = self._home
        states = [KeyState(key, home, size) for key, size in zip(keys, sizes)]
        connection.states.update(zip(keys, states))
        outbox = connection.outbox
        outbox.items.append(PreparedColumn(call, keys, column, total))
        if not outbox.awake:
            outbox.wake()
        return list(map(Future, states))

    def _map_chunks(
        self, call: Call, rows: Iterator[tuple[Any, ...]], kwargs: dict[str, Any], pure: bool, chunksize: int
    ) -> list[Future[Any]]:
        futures: list[Future[Any]] = []
        while chunk := list(islice(rows, chunksize)):
            whole = self._start_named(call, (chunk,), kwargs, None, pure)
            state = whole._state
            with self._connection.lock:
                state.refs += len(chunk)
            futures += [ChunkFuture(state, index) for index in range(len(chunk))]
        return futures

    def _shared(self, name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments of all calls of a map, the larger ones made data once."""
        return {
            key: value
            if type(value) in SCALARS and not isinstance(value, (str, bytes))
            else self.data.shared(f"argument {key}= of {name}", value, SHARED_LIMIT)
            for key, value in kwargs.items()
        }

    # -- inside ------------------------------------------------------------------------------------------------------

    def _call(self, function: Callable[..., Any], options: TaskOptions | None, name: str = "") -> Call:
        return Call.of(function, options, self.salt, name)

    def _pack(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
        return pack(self._connection, call.name, args, kwargs, self.data.move, self.split)

    def split(self, part: ChunkFuture[Any]) -> Future[Any]:
        """A task that picks one result out of a chunk, for tasks that need only that."""
        return self.submit(getitem, (_whole(part), part.index), {})

    def _start(self, call: Call, packed: Packed, key: Key | None = None) -> Future[Any]:
        return self._begin(call, packed.data, key, packed.dependencies, packed.inputs)

    def _begin(
        self,
        call: Call,
        data: bytes,
        key: Key | None,
        dependencies: tuple[Key, ...] | None = None,
        inputs: tuple[Future[Any], ...] = (),
    ) -> Future[Any]:
        connection = self._connection
        if connection.ended is not None:
            connection.check_open()
        intake = connection.intake
        number = next(intake.counter)
        if number - intake.settled > intake.max_tasks or intake.bytes > intake.max_bytes:
            connection.wait_for_room(number)
        state = KeyState(key or f"{call.prefix}{number}", self._home, len(data))
        if inputs:
            state.inputs = inputs
        connection.states[state.key] = state
        outbox = connection.outbox
        outbox.items.append((call, state.key, data, dependencies))
        if not outbox.awake:
            outbox.wake()
        return Future(state)

    def submit_call(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], key: Key) -> Future[Any]:
        """A call under a fresh ``key``."""
        if kwargs or not SCALARS.issuperset(map(type, args)):
            return self._start(call, self._pack(call, args, kwargs), key)
        data = pack_scalars(args, kwargs)
        if len(data) > INLINE_LIMIT:
            return self._start(call, self._pack(call, args, kwargs), key)
        return self._begin(call, data, key)

    def batch(self) -> Batch:
        """For calls under fresh keys, with what is agreed for them."""
        return Batch(self._connection, self._home, self._pack)

    def pack_apart(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
        """The arguments of a call that is sent in another way; `Ref` to calls that are sent with it are found too."""
        return pack_planned(self._connection, call.name, args, kwargs, self.split)

    def put(self, message: Message) -> None:
        """Send a message after all that was submitted before."""
        self._connection.put(message)

    def adopt(self, key: Key) -> Future[Any]:
        """The future of a key, which may be submitted later and by somebody else."""
        with self._connection.lock:
            known = self._known(key)
            if known is not None:
                return known
            state = KeyState(key, self._home, -1)
            self._connection.states[key] = state
            self._connection.put(Await([key]))
        return Future(state)

    def _known(self, key: Key) -> Future[Any] | None:
        """Another future of a key this client holds; None if it doesn't, or it was cancelled."""
        connection = self._connection
        connection.check_open()
        with connection.lock:
            state = connection.states.get(key)
            if state is None or state.status is CANCELLED:
                return None
            state.refs += 1
        return Future(state)

    def _start_keyed(self, call: Call, packed: Packed, key: Key) -> Future[Any]:
        # Looking and sending with the lock held: a release of the same key goes out before or after both.
        connection = self._connection
        with connection.lock:
            known = self._known(key)
            if known is not None:
                return known
            if call.is_named and (asked := connection.chosen.use(key)) is not None:
                connection.outbox.items.append(asked)
            return self._start(call, packed, key)


class Batch:
    """Calls that are sent together: those of one function in a row are one message. Used by one thread.

    Up to `BATCH_MESSAGES` leave at once, so that none of them runs before the scheduler knows what follows it.

    Args:
        home: of the states of their keys.
        pack: packs the arguments of a call.
    """

    def __init__(
        self,
        connection: Connection,
        home: Home,
        pack: Callable[[Call, tuple[Any, ...], dict[str, Any]], Packed],
    ) -> None:
        self._connection = connection
        self._home = home
        self._pack = pack
        self._call: Call | None = None
        #: what leaves next, and how many calls and bytes these are
        self._ready: list[PreparedColumn | Message] = []
        self._held = self._held_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._keys: list[Key] = []
        self._arguments: list[bytes] = []
        self._needs: list[tuple[Key, ...]] = []
        self._conditions: list[Conditions | None] = []
        self._size = 0

    def add(
        self,
        call: Call,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: Key,
        conditions: Conditions | None,
        after: tuple[Key, ...],
    ) -> Future[Any]:
        """A call under a fresh ``key``; its future.

        Args:
            after: keys whose results it waits for and doesn't take.
        """
        connection = self._connection
        if connection.ended is not None:
            connection.check_open()
        packed = self._pack(call, args, kwargs)
        data = packed.data
        if self._held_bytes + self._size + len(data) > BATCH_BYTES or self._held + len(self._keys) >= BATCH_MESSAGES:
            self.send()
        elif call is not self._call:
            self._close()
        self._call = call
        number = next(connection.intake.counter)
        if not connection.intake.has_room(number):
            self.send()  # what is waited for may be what is here
            connection.wait_for_room(number)
        state = KeyState(key, self._home, len(data), inputs=packed.inputs)
        if call.is_named:
            self._use(key)
        connection.states[key] = state
        needs = packed.dependencies or ()
        self._keys.append(key)
        self._arguments.append(data)
        self._needs.append(tuple(dict.fromkeys((*needs, *after))) if after else needs)
        self._conditions.append(conditions)
        self._size += len(data)
        return Future(state)

    def _use(self, key: Key) -> None:
        """A key that a user chose means this call from now on; see `chosen`."""
        connection = self._connection
        connection.outbox.release()
        with connection.lock:
            asked = connection.chosen.use(key)
        if asked is not None:
            self.put(asked)

    def put(self, message: Message) -> None:
        """A message that leaves after what was added."""
        self._close()
        self._ready.append(message)

    def _close(self) -> None:
        """What was added is a message."""
        call = self._call
        if call is None or not self._keys:
            return
        needs = self._needs if any(self._needs) else None
        conditions = self._conditions if any(one is not None for one in self._conditions) else None
        self._ready.append(PreparedColumn(call, self._keys, self._arguments, self._size, needs, conditions))
        self._held += len(self._keys)
        self._held_bytes += self._size
        self._begin()

    def send(self) -> None:
        """What was added leaves, after all that was submitted before."""
        self._close()
        if not self._ready:
            return
        ready, self._ready = self._ready, []
        self._held = self._held_bytes = 0
        outbox = self._connection.outbox
        outbox.items.extend(ready)
        if not outbox.awake:
            outbox.wake()


def _whole(part: ChunkFuture[Any]) -> Future[Any]:
    """The future of all results of a part's chunk."""
    state = part._state
    with state.keeper.lock:
        state.refs += 1
    return Future(state)


def checked_key(key: Any) -> Key | None:
    if key is not None and (not isinstance(key, str) or not key):
        raise TypeError(f"key= takes text, got {key!r}")
    return key


def pure_key(call: Call, packed: Packed) -> Key:
    """The same for the same function and arguments, as far as these pickle to the same bytes."""
    digest = hashlib.sha256(call.digest)
    for part in (packed.data, *(key.encode() for key in packed.dependencies or ())):
        digest.update(b"%d;" % len(part))
        digest.update(part)
    return f"{call.name}-{digest.hexdigest()[:32]}"
