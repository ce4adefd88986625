"""Sends data to the cluster: what users scatter, and what is made of large arguments.

Small data travels in its message. Larger data is written to a file that a worker on the same host takes over. Where the
scheduler is elsewhere, or no worker can open the file, it goes over a connection to a worker, and where none can be
reached, in parts through the broker: a worker asks for them, as it does for other workers' results, or where there is
no second connection they go by the scheduler. The first file is waited for, to learn whether files are taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import sys
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from futurebroker.client.connection import Connection
from futurebroker.client.futures import ERROR, FINISHED, PENDING, Future, Home, KeyState, settle
from futurebroker.client.gathering import futures_in
from futurebroker.client.giving import Giving
from futurebroker.client.waiters import run_blocking
from futurebroker.data.files import write_to, write_value
from futurebroker.data.folders import StoreFolder
from futurebroker.data.reuse import FreedFiles
from futurebroker.data.ways import DIRECT, MAP
from futurebroker.exceptions import FuturebrokerError
from futurebroker.protocol.messages import INLINE_LIMIT, Message, PutFile, PutPart, PutValue
from futurebroker.protocol.serialize import Buffer, dump_frames, frames_size, layout
from futurebroker.secret import is_loopback
from futurebroker.types import Key

logger = logging.getLogger("futurebroker.client")

#: bytes of data in one message
PART = 256 * 1024
#: times the same large argument may come before its sender is told of `scatter`
REPEATS = 3
#: large arguments whose repetitions are counted
REMEMBERED = 1000
_SEQUENCES: Final = frozenset({list, tuple, set, frozenset})


@dataclass(frozen=True, slots=True)
class Load:
    """A pickled value that is to lie on a worker."""

    frames: list[Buffer]
    size: int
    workers: tuple[str, ...] = ()  #: that may have it; empty: any
    broadcast: bool = False


class DataSender:
    """One client's way to put data into the cluster."""

    def __init__(self, connection: Connection, home: Home, salt: str, patience: float) -> None:
        self._connection = connection
        self._home = home
        self._salt = salt
        self._patience = patience
        self._files_work: bool | None = None if is_loopback(connection.url) and MAP in connection.ways else False
        self._folder: StoreFolder | None = None
        self._freed: FreedFiles | None = None
        self._making = threading.Lock()
        #: large arguments by the digest of their bytes, as long as a future of them lives
        self._moved: weakref.WeakValueDictionary[bytes, Future[Any]] = weakref.WeakValueDictionary()
        self._repeats: Counter[tuple[str, bytes]] = Counter()
        self._warned: set[str] = set()

    def close(self) -> None:
        """Remove what no worker took over."""
        with self._making:
            folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()

    # -- scatter -----------------------------------------------------------------------------------------------------

    async def scatter(self, data: Any, workers: tuple[str, ...], broadcast: bool, hashed: bool, blocking: bool) -> Any:
        """See `Client.scatter`."""
        if isinstance(data, (range, Iterator)):
            data = list(data)
        kind = type(data)
        if kind is dict:
            return {
                name: await self._put_one(
                    value, name if isinstance(name, str) else None, workers, broadcast, hashed, blocking
                )
                for name, value in data.items()
            }
        if kind in _SEQUENCES or (isinstance(data, tuple) and hasattr(data, "_make")):
            futures = [await self._put_one(value, None, workers, broadcast, hashed, blocking) for value in data]
            return data._make(futures) if kind not in _SEQUENCES else kind(futures)
        return await self._put_one(data, None, workers, broadcast, hashed, blocking)

    async def _put_one(
        self, value: Any, key: Key | None, workers: tuple[str, ...], broadcast: bool, hashed: bool, blocking: bool
    ) -> Future[Any]:
        name = type(value).__name__
        frames = dump_frames(value, f"the {name} to scatter")
        if key is None:
            key = f"{name}-{digest_of(frames).hex()[:32]}" if hashed else self._new_key(name)
        return await self._put(key, Load(frames, frames_size(frames), workers, broadcast), blocking)

    # -- large arguments ---------------------------------------------------------------------------------------------

    def move(self, what: str, frames: list[Buffer], size: int) -> Future[Any]:
        """A future of a large argument, the same one as long as the same bytes are in use."""
        digest = digest_of(frames)
        future = self.keep(frames, size, digest)
        if len(self._repeats) > REMEMBERED:
            self._repeats.clear()
        self._repeats[what, digest] += 1
        if self._repeats[what, digest] >= REPEATS and what not in self._warned:
            self._warned.add(what)
            warnings.warn(
                f"{what} is the same {size:,} bytes again and again; they are stored once, but pickled for each call: "
                "use client.scatter(...) and pass the future it returns",
                stacklevel=_user_level(),
            )
        return future

    def keep(self, frames: list[Buffer], size: int, digest: bytes | None = None) -> Future[Any]:
        """As `move`, of data that needs no explanation when it comes again."""
        digest = digest or digest_of(frames)
        future: Future[Any] | None = self._moved.get(digest)
        if future is None or future.cancelled() or future.status == ERROR:
            key = self._new_key("data")
            future = run_blocking(self._put(key, Load(frames, size), True))
            self._moved[digest] = future
        return future

    def shared(self, what: str, value: Any, limit: int) -> Any:
        """``value`` itself, or a future of it if its bytes are more than ``limit`` and it holds no futures."""
        if isinstance(value, Future) or next(futures_in(value), None) is not None:
            return value
        frames = dump_frames(value, what)
        size = frames_size(frames)
        return value if size <= limit else self.move(what, frames, size)

    # -- datasets ----------------------------------------------------------------------------------------------------

    async def store(self, name: str, frames: list[Buffer], blocking: bool) -> Future[Any]:
        """A future of a pickled value, once a worker or the scheduler has it.

        Raises:
            DataLostError, FuturebrokerError: it could not be kept; the message says why.
        """
        future = await self._put(self._new_key(name), Load(frames, frames_size(frames)), blocking)
        await settle([future._state], blocking)
        if future._state.status is not FINISHED:
            raise future._state.error()
        return future

    # -- one value ---------------------------------------------------------------------------------------------------

    def _new_key(self, name: str) -> Key:
        return f"{name}-{self._salt}d{self._connection.number()}"

    async def _put(self, key: Key, load: Load, blocking: bool) -> Future[Any]:
        connection = self._connection
        connection.check_open()
        with connection.lock:
            known = connection.states.get(key)
            if known is not None and known.refs > 0 and known.status in (PENDING, FINISHED):
                known.refs += 1
                return Future(known)
            state = KeyState(key, self._home, -1)
            connection.states[key] = state
        future: Future[Any] = Future(state)
        if load.size <= INLINE_LIMIT:
            connection.put(PutValue(key, b"".join(layout(load.frames)), load.workers, load.broadcast))
        elif self._files_work is not False:
            await self._put_file(state, load, blocking)
        else:
            await self._put_elsewhere(state, load, blocking)
        return future

    async def _put_directly(self, state: KeyState, load: Load, blocking: bool) -> bool:
        """Send the bytes to a worker over a connection; False where that can't be done."""
        connection = self._connection
        if DIRECT not in connection.ways:
            return False
        place = await connection.ask("storing_place", list(load.workers), blocking, self._patience)
        if not place or not connection.pool.may_reach(place["address"]):
            return False

        def put() -> str:
            pieces = (memoryview(piece).cast("B") for piece in layout(load.frames) if len(piece))
            return connection.pool.put(place["address"], load.size, pieces)

        try:
            path = put() if blocking else await asyncio.to_thread(put)
        except (OSError, FuturebrokerError) as error:
            logger.info("%s could not be put to %s: %s", state.key, place["address"], error)
            return False
        connection.put(PutFile(state.key, path, load.size, load.workers, load.broadcast, place["worker"]))
        return True

    async def _put_file(self, state: KeyState, load: Load, blocking: bool) -> None:
        connection = self._connection
        if self._files_work is None:
            await connection.ask("wait_for_workers", 1, blocking, self._patience)
        path = self._write(load) if blocking else await asyncio.to_thread(self._write, load)
        connection.put(PutFile(state.key, str(path), load.size, load.workers, load.broadcast))
        if self._files_work is None:
            connection.flush()
            await settle([state], blocking)
            self._files_work = state.status is FINISHED
            if state.held is not None and state.held.holders and (taken := state.held.holders[0][1]):
                # A worker of this machine has it in its folder, and next to it what it keeps of freed files.
                self._freed = FreedFiles(Path(taken).parent)
            if not self._files_work:
                path.unlink(missing_ok=True)
                connection.renew(state)
                await self._put_elsewhere(state, load, blocking)

    def _write(self, load: Load) -> Path:
        """A file of our own with a value: one that a worker has no use for, or a new one."""
        folder = self._own_folder().path
        path = folder / secrets.token_hex(16)
        with contextlib.suppress(OSError):  # of another kind of memory, or another user's
            if self._freed is not None and (found := self._freed.take(load.size, str(path))) is not None:
                write_to(found[0], str(path), load.frames)
                return path
        return write_value(folder, load.frames)

    async def _put_elsewhere(self, state: KeyState, load: Load, blocking: bool) -> None:
        """To a worker that can't open our files."""
        if await self._put_directly(state, load, blocking):
            return
        if self._connection.gives_past_the_scheduler:
            await self._put_on_request(state, load, blocking)
            if state.status is not ERROR:
                return
            self._connection.renew(state)
        await self._put_parts(state, load, blocking)

    async def _put_on_request(self, state: KeyState, load: Load, blocking: bool) -> None:
        """Have a worker ask for the bytes as it would ask another worker: past the scheduler, for what it lacks."""
        connection = self._connection
        announcement = PutPart(state.key, 0, load.size, b"", load.workers, load.broadcast)
        connection.givings[state.key] = Giving(announcement, load.frames)
        try:
            connection.put(announcement)
            connection.flush()
            await settle([state], blocking)
        finally:
            del connection.givings[state.key]

    async def _put_parts(self, state: KeyState, load: Load, blocking: bool) -> None:
        def parts() -> Iterator[Message]:
            offset = 0
            for piece in layout(load.frames):
                view = memoryview(piece).cast("B")
                for start in range(0, len(view), PART):
                    data = bytes(view[start : start + PART])
                    yield PutPart(state.key, offset, load.size, data, load.workers, load.broadcast)
                    offset += len(data)

        await self._connection.stream(parts(), blocking)

    def _own_folder(self) -> StoreFolder:
        with self._making:
            if self._folder is None:
                self._folder = StoreFolder.make()
            return self._folder


def _user_level() -> int:
    """The ``stacklevel`` of the caller's warning that points at the first line outside this package."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("futurebroker."):
        frame = frame.f_back
        level += 1
    return level


def digest_of(frames: list[Buffer]) -> bytes:
    """A digest of a value's bytes."""
    content = hashlib.blake2b(digest_size=16)
    for frame in frames:
        content.update(b"%d;" % len(frame))
        content.update(frame)
    return content.digest()
