"""Keeps results of workers in a database or folder and gives them back: a holder as `storing` describes it.

It talks to the machine as a worker does, by messages, and waits for disks in a thread of its own. What it keeps are
bytes; nothing here opens them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from futurebroker.exceptions import DatabaseError, ProtocolError
from futurebroker.persistence.blobs import PART, Blobs
from futurebroker.protocol.messages import (
    DataEnough,
    DataLost,
    DataPart,
    DataWanted,
    Free,
    Inventory,
    Message,
    NotStored,
    Replicate,
    Stored,
)
from futurebroker.scheduler.aside import Aside
from futurebroker.types import Key

logger = logging.getLogger("futurebroker.scheduler")

#: bytes asked of a holder at a time
PIECE = 256 * 1024
#: bytes of a value that may be on their way here, or wait to be written
WINDOW = 4 * PART
#: values fetched at a time
AT_A_TIME = 2
#: seconds without a piece after which a fetch is given up
PATIENCE = 10.0


class _Fetch:
    """A value on its way into the archive."""

    __slots__ = ("asked", "buffer", "came", "key", "nbytes", "number", "part", "pieces", "timer", "written")

    def __init__(self, key: Key, number: int) -> None:
        self.key = key
        self.number = number  #: of the transfer
        self.nbytes = -1  #: of the whole, once that is known
        self.asked = 0
        self.came = 0  #: bytes without a gap
        self.written = 0
        self.part = 0  #: number of the part that is written next
        self.pieces: dict[int, bytes] = {}
        self.buffer = bytearray()
        self.timer: asyncio.TimerHandle | None = None


class Archive(Aside):
    """One archive; see the top of this file. Belongs to the loop that it is made on.

    Args:
        say: takes what it has to say, as a worker's messages.
    """

    def __init__(self, name: str, blobs: Blobs, say: Callable[[list[Message]], None]) -> None:
        super().__init__(name)
        self.name = name
        self._blobs = blobs
        self._say = say
        self._numbers = itertools.count(1)
        self._waiting: deque[Key] = deque()
        self._fetches: dict[int, _Fetch] = {}
        #: the part that was read last; only for the thread
        self._last: tuple[Key, int, tuple[int, bytes]] | None = None

    async def inventory(self) -> Inventory:
        """What is there.

        Raises:
            DatabaseError: it can't be read.
        """
        held = await self._loop.run_in_executor(self._thread, self._blobs.held)
        return Inventory([(key, nbytes, "") for key, nbytes in held], last=True)

    def tell(self, messages: Sequence[Any]) -> None:
        """Messages of the machine; whatever follows from them comes later."""
        for message in messages:
            kind = type(message)
            if kind is DataPart:
                fetch = self._fetches.get(message.transfer)
                if fetch is not None:
                    self._take(fetch, message)
            elif kind is DataWanted:
                self._run(partial(self._read, message), self._spoken)
            elif kind is Replicate:
                if message.source.key not in self._waiting:
                    self._waiting.append(message.source.key)
                self._begin()
            elif kind is Free:
                self._free(message.keys)

    async def close(self) -> None:
        """Write what was begun to be written, and end. May be called twice."""
        if not self._closed:
            self._closed = True
            for fetch in list(self._fetches.values()):
                self._end(fetch)
            await self._finish()
            self._blobs.close()

    # -- work for the thread -----------------------------------------------------------------------------------------

    def _spoken(self, future: Future[Any]) -> None:
        self._say(future.result())

    def _speak(self, message: Message) -> None:
        """Say it, but not from within what the machine just told."""
        self._loop.call_soon(lambda: None if self._closed else self._say([message]))

    # -- giving ------------------------------------------------------------------------------------------------------

    def _read(self, wanted: DataWanted) -> list[Message]:
        """What answers a request for a part of a value; in the thread."""
        missing = DataPart(wanted.transfer, wanted.key, wanted.offset, -1, b"", wanted.asker)
        data = bytearray()
        nbytes = -1
        while len(data) < wanted.length:
            part, skip = divmod(wanted.offset + len(data), PART)
            try:
                found = self._part(wanted.key, part)
            except DatabaseError as error:
                logger.warning("%s can't be read from the %s: %s", wanted.key, self.name, error)
                return [missing]
            except ProtocolError as error:
                logger.error("%s in the %s was altered: %s", wanted.key, self.name, error)
                return [missing, DataLost(wanted.key, str(error))]
            if found is None:
                return [missing, DataLost(wanted.key, f"it is not in the {self.name} any more")]
            nbytes, body = found
            data += body[skip : skip + wanted.length - len(data)]
            if wanted.offset + len(data) >= nbytes:
                break
        return [DataPart(wanted.transfer, wanted.key, wanted.offset, nbytes, bytes(data), wanted.asker)]

    def _part(self, key: Key, part: int) -> tuple[int, bytes] | None:
        if self._last is not None and self._last[:2] == (key, part):
            return self._last[2]
        found = self._blobs.read(key, part)
        self._last = None if found is None else (key, part, found)
        return found

    # -- taking ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Fetch what waits, a few at a time."""
        while self._waiting and len(self._fetches) < AT_A_TIME:
            key = self._waiting.popleft()
            if any(fetch.key == key for fetch in self._fetches.values()):
                continue
            fetch = _Fetch(key, next(self._numbers))
            self._fetches[fetch.number] = fetch
            self._ask(fetch)
            self._be_patient(fetch)

    def _ask(self, fetch: _Fetch) -> None:
        """Ask for as much as may be on its way; for one piece as long as the size isn't known."""
        end = PIECE if fetch.nbytes < 0 else min(fetch.nbytes, fetch.written + WINDOW)
        while fetch.asked < end:
            self._speak(DataWanted(fetch.number, fetch.key, fetch.asked, PIECE, got=fetch.written))
            fetch.asked += PIECE

    def _be_patient(self, fetch: _Fetch) -> None:
        if fetch.timer is not None:
            fetch.timer.cancel()
        fetch.timer = self._loop.call_later(PATIENCE, self._fail, fetch, "")

    def _take(self, fetch: _Fetch, message: DataPart) -> None:
        """A piece came, perhaps before those that stand before it."""
        if message.nbytes < 0 or (fetch.nbytes >= 0 and message.nbytes != fetch.nbytes):
            self._fail(fetch, "")
            return
        fetch.nbytes = message.nbytes
        fetch.pieces[message.offset] = message.data
        while piece := fetch.pieces.pop(fetch.came, None):
            fetch.buffer += piece
            fetch.came += len(piece)
        self._be_patient(fetch)
        self._write(fetch)
        self._ask(fetch)

    def _write(self, fetch: _Fetch) -> None:
        """Write the parts that are there whole."""
        while len(fetch.buffer) >= PART or (fetch.buffer and fetch.came == fetch.nbytes):
            body = bytes(fetch.buffer[:PART])
            del fetch.buffer[:PART]
            part, last = fetch.part, fetch.came == fetch.nbytes and not fetch.buffer
            fetch.part += 1
            self._run(partial(self._write_part, fetch, part, body, last), partial(self._wrote, fetch, len(body), last))

    def _write_part(self, fetch: _Fetch, part: int, body: bytes, last: bool) -> None:
        """In the thread, and after those before it; nothing more is written of a fetch that was given up."""
        if fetch.number in self._fetches:
            self._blobs.write(fetch.key, fetch.nbytes, part, body)
            if last:
                self._last = None
                self._blobs.finish(fetch.key)

    def _wrote(self, fetch: _Fetch, size: int, last: bool, done: Future[None]) -> None:
        error = done.exception()
        if fetch.number not in self._fetches:
            return
        if error is not None:
            if not isinstance(error, DatabaseError):
                logger.error("%s could not be kept in the %s", fetch.key, self.name, exc_info=error)
            self._fail(fetch, f"it could not be written: {error}")
            return
        fetch.written += size
        if last:
            self._end(fetch)
            self._say([Stored(fetch.key, fetch.nbytes, "")])
        else:
            self._be_patient(fetch)
            self._ask(fetch)

    def _fail(self, fetch: _Fetch, reason: str) -> None:
        self._end(fetch)
        self._delete([fetch.key])
        self._speak(NotStored(fetch.key, reason))

    def _end(self, fetch: _Fetch) -> None:
        if fetch.timer is not None:
            fetch.timer.cancel()
        if self._fetches.pop(fetch.number, None) is not None and not self._closed:
            self._speak(DataEnough(fetch.number))
        if not self._closed:
            self._begin()

    def _free(self, keys: Sequence[Key]) -> None:
        gone = set(keys)
        self._waiting = deque(key for key in self._waiting if key not in gone)
        for fetch in list(self._fetches.values()):
            if fetch.key in gone:
                self._end(fetch)
        self._delete(list(keys))

    def _delete(self, keys: list[Key]) -> None:
        def delete() -> None:
            self._last = None
            self._blobs.delete(keys)

        def deleted(done: Future[None]) -> None:
            if done.exception() is not None:
                logger.warning("%d values stay in the %s for now: %s", len(keys), self.name, done.exception())

        self._run(delete, deleted)
