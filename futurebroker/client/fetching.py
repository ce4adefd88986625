"""Gets results that lie in a worker's store: by a map on the same host, a connection, or parts through the broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from futurebroker.client.futures import FINISHED, UNOPENED, KeyState, opening, unopened
from futurebroker.client.waiters import Countdown, pause
from futurebroker.data.files import map_value
from futurebroker.data.pool import Pool
from futurebroker.data.ways import DIRECT, MAP
from futurebroker.exceptions import FuturebrokerError, ResultError
from futurebroker.protocol.messages import DataEnough, DataPart, DataWanted, Held, Message
from futurebroker.protocol.serialize import loads
from futurebroker.types import Key

logger = logging.getLogger("futurebroker.client")

#: bytes asked for at a time
PART = 512 * 1024
#: parts asked for ahead
AHEAD = 16
#: seconds without a part after which parts that should have come past the scheduler are asked for again; doubles
RENEW = 1.0
#: seconds without a part after which the transfer starts again, because its holder may be gone
PATIENCE = 30.0
#: seconds before a holder that doesn't have the result is asked again; the scheduler mostly says first that it is lost
AGAIN = 0.2
#: times a result that is said to be there is asked for
ATTEMPTS = 5


class Channel(Protocol):
    """What a transfer needs of the connection."""

    routes: dict[int, Callable[[DataPart], None]]
    #: by which results may come
    ways: frozenset[str]
    #: keys being fetched, and who waits for the end of that
    underway: dict[Key, list[Countdown]]

    @property
    def pool(self) -> Pool: ...
    def number(self) -> int: ...
    def put(self, message: Message) -> None: ...
    def flush(self) -> None: ...
    def find_inbox(self, then: Callable[[str], None]) -> None: ...


class Transfer:
    """One result on its way here in parts; `take` runs on the I/O thread."""

    def __init__(self, channel: Channel, held: Held) -> None:
        self.data: bytearray | None = None
        self.missing = False
        self.ended = Countdown(1)
        self._channel = channel
        self._held = held
        self._number = channel.number()
        self._inbox = ""
        self._attempt = 0
        self._asked = 0
        self._came = 0
        self._seen: set[int] = set()

    def start(self) -> None:
        """Ask for the first parts, to be sent past the scheduler if they are many and that can be."""
        self._channel.routes[self._number] = self.take
        if self._held.nbytes > PART:
            self._channel.find_inbox(self._begin)
        else:
            self._begin("")

    def renew(self) -> None:
        """Ask again for what hasn't come, if it can have been lost."""
        if self._inbox:
            self._channel.find_inbox(self._begin)

    def _begin(self, inbox: str) -> None:
        if self._number not in self._channel.routes:
            return
        self._inbox = inbox
        if self._asked:
            offsets = [offset for offset in range(0, self._asked, PART) if offset not in self._seen]
        else:
            offsets = list(range(0, max(1, min(AHEAD * PART, self._held.nbytes)), PART))
            # Before the first is asked for: its arrival asks on from here, on the I/O thread.
            self._asked = len(offsets) * PART
        for offset in offsets:
            self._ask(offset)
        self._channel.flush()

    def stop(self) -> None:
        """Take no more parts."""
        self._channel.routes.pop(self._number, None)
        if self._asked > PART and not self.missing:
            self._channel.put(DataEnough(self._number))

    def take(self, part: DataPart) -> None:
        """A part arrived: keep it and ask for another."""
        if part.nbytes < 0:
            self.missing = True
            self.ended.end()
            return
        if self.data is None:
            self.data = bytearray(part.nbytes)
            self._attempt = part.attempt
        fits = part.nbytes == len(self.data) and part.offset + len(part.data) <= len(self.data)
        if not fits or part.attempt != self._attempt:  # or it was made anew meanwhile
            self.missing = True
            self.ended.end()
            return
        if part.offset in self._seen:
            return
        self._seen.add(part.offset)
        self.data[part.offset : part.offset + len(part.data)] = part.data
        self._came += len(part.data)
        if self._came >= part.nbytes:
            self.ended.end()
        elif self._asked < part.nbytes:
            self._asked += PART
            self._ask(self._asked - PART)

    def _ask(self, offset: int) -> None:
        self._channel.put(DataWanted(self._number, self._held.key, offset, PART, "", "", self._inbox, self._came))

    @property
    def progress(self) -> int:
        """Bytes that have arrived."""
        return self._came


async def fetch(channel: Channel, state: KeyState, held: Held, blocking: bool) -> Any:
    """The result that lies at ``held``, kept in ``state``; UNOPENED when it turns out to be lost or moved.

    Threads that ask for one key at the same time share one transfer.

    Raises:
        ResultError: it can't be opened here, or can't be had although it is said to be there.
    """
    ended = Countdown(1)
    waiting: list[Countdown] = []
    ours = channel.underway.setdefault(state.key, waiting) is waiting
    if not ours:
        channel.underway.get(state.key, []).append(ended)
        while state.key in channel.underway and not await pause(ended, blocking, AGAIN):
            pass  # it may have ended before we were on its list
        return state.result
    try:
        return await _fetch(channel, state, held, blocking)
    finally:
        del channel.underway[state.key]
        for other in waiting:
            other.end()


async def _fetch(channel: Channel, state: KeyState, held: Held, blocking: bool) -> Any:
    near = _near if blocking else _near_aside
    data: memoryview | bytearray | None = await near(channel, held)
    attempts = 0
    while data is None:
        attempts += 1
        data = await _transfer(channel, held, blocking)
        if state.status is not FINISHED or state.held is not held:
            return UNOPENED
        if data is None:
            if attempts == ATTEMPTS:
                raise ResultError(f"the result of {state.key} could not be fetched from its worker")
            await pause(Countdown(1), blocking, AGAIN)
    opening.keeper = state.keeper
    try:
        result = loads(data)
    except Exception as error:
        raise unopened(state.key, error) from error
    finally:
        opening.keeper = None
    state.result = result
    return result


async def _near(channel: Channel, held: Held) -> memoryview | None:
    return _without_broker(channel, held)


async def _near_aside(channel: Channel, held: Held) -> memoryview | None:
    """As `_near`, without holding up the loop: a file on disk is read and checked, and a connection takes its time."""
    return await asyncio.to_thread(_without_broker, channel, held)


def _without_broker(channel: Channel, held: Held) -> memoryview | None:
    """The bytes by a map, else by a connection to a holder; None where neither works."""
    data = _mapped(held) if MAP in channel.ways else None
    if data is not None or DIRECT not in channel.ways:
        return data
    for address in held.addresses:
        if not channel.pool.may_reach(address):
            continue
        try:
            return channel.pool.fetch(address, held.key)
        except (OSError, FuturebrokerError) as error:
            logger.info("%s could not be fetched from %s: %s", held.key, address, error)
    return None


def _mapped(held: Held) -> memoryview | None:
    """The file of the first holder whose store this process can open."""
    for worker, path in held.holders:
        if not path:
            continue
        try:
            return map_value(path)
        except OSError as error:
            logger.debug("%s of worker %s can't be mapped: %s", held.key, worker, error)
    return None


async def _transfer(channel: Channel, held: Held, blocking: bool) -> bytearray | None:
    """The bytes of a result, in parts; None when the holder doesn't have it or went silent."""
    transfer = Transfer(channel, held)
    transfer.start()
    try:
        progress, silent, wait = 0, 0.0, RENEW
        while not await pause(transfer.ended, blocking, wait):
            silent += wait
            if transfer.progress > progress:
                progress, silent, wait = transfer.progress, 0.0, RENEW
            elif silent >= PATIENCE:
                return None
            else:
                wait *= 2
                transfer.renew()
    finally:
        transfer.stop()
    return None if transfer.missing else transfer.data
