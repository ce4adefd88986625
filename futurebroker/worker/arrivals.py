"""Values on their way into this worker's store: fetched from other workers, sent in pieces, taken over (sans-IO).

What others ask of this store is answered here too.

Of a fetch's holders each is tried once, in order: first its file, where that can be opened on this host, then by a
connection to it, else in pieces that the scheduler passes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from futurebroker.data.objectstore import ObjectStore, StoredValue
from futurebroker.protocol.messages import (
    INLINE_LIMIT,
    AdoptFile,
    DataEnough,
    DataPart,
    DataWanted,
    Held,
    Store,
    Stored,
    StorePart,
)
from futurebroker.types import Key, WorkerId
from futurebroker.worker.commands import (
    BulkInbox,
    Instruction,
    OpenBulk,
    Probe,
    Probed,
    Pull,
    Pulled,
    SendPart,
    TakeFile,
    Taken,
    Unlink,
    WriteFailed,
    WritePart,
    Written,
)

#: bytes asked for at a time, and how many such pieces ahead
PART_BYTES = 512 * 1024
PARTS_AHEAD = 16
#: bytes a value must have for its time to tell of the network, and weight of the newest in the mean
WORTH_MEASURING = 256 * 1024
NEWEST = 0.3
#: seconds without a piece after which the next holder is tried
PATIENCE = 30.0
#: seconds without a piece after which those that should have come past the scheduler are asked for again; doubles
RENEW = 1.0


class ArrivalEvents(Protocol):
    """What arrivals tell the machine."""

    def value_arrived(self, key: Key, value: StoredValue, kept: bool) -> None:
        """``kept``: the scheduler asked for it and is to be told."""

    def value_failed(self, key: Key, tried: list[tuple[Key, WorkerId]], kept: bool, reason: str) -> None:
        """No holder had it, or it could not be written."""


class _Fetch:
    __slots__ = (
        "addresses", "asked", "attempt", "begun", "got", "heard", "holder", "holders", "inbox", "kept", "key", "nbytes",
        "path", "reason", "renew_after", "renewed", "seen", "size", "transfer", "tried",
    )  # fmt: skip

    def __init__(self, source: Held, kept: bool, now: float) -> None:
        self.key = source.key
        self.size = source.nbytes  #: as we were told
        self.holders = list(source.holders)
        self.addresses = addresses_of(source)
        self.kept = kept
        self.tried: list[tuple[Key, WorkerId]] = []
        self.holder = ""
        self.path = ""  #: being written
        self.transfer = 0
        self.inbox = ""  #: that pieces were asked to be sent to; empty: they come by the scheduler
        self.renew_after, self.renewed = RENEW, now
        self.nbytes = self.attempt = -1
        self.asked = 0
        self.got = 0
        self.seen: set[int] = set()
        self.heard = self.begun = now
        self.reason = "no holder has it"


def addresses_of(source: Held) -> dict[WorkerId, str]:
    """Where each holder serves its values, as far as it does."""
    return {worker: address for (worker, _), address in zip(source.holders, source.addresses) if address}


class _Pieces:
    __slots__ = ("got", "path", "seen")

    def __init__(self, path: str) -> None:
        self.path = path
        self.got = 0
        self.seen: set[int] = set()


class Arrivals:
    """See the top of this file.

    Args:
        new_path: a fresh path for a value of so many bytes, one nobody can guess.
        ways: by which values may come; see `futurebroker.data.ways`.
    """

    def __init__(
        self,
        events: ArrivalEvents,
        emit: Callable[[Instruction], None],
        new_path: Callable[[int], str],
        ways: Collection[str],
    ) -> None:
        self._may_map, self._may_connect = "map" in ways, "direct" in ways
        self._events = events
        self._emit = emit
        self._new_path = new_path
        self._fetches: dict[Key, _Fetch] = {}
        self._transfers: dict[int, _Fetch] = {}
        self._pulls: dict[int, _Fetch] = {}
        self._pieces: dict[Key, _Pieces] = {}
        self._taking: dict[Key, int] = {}
        #: paths all of whose bytes are on their way to their file -> what is to be done once they are there
        self._writing: dict[str, Callable[[], None]] = {}
        self._last_transfer = 0
        #: where pieces can be sent to us past the scheduler, and whether we wait to be told
        self._inbox = ""
        self._opening = False
        #: bytes a second of what came otherwise than by a map; 0: nothing did yet
        self.bandwidth = 0.0

    def __len__(self) -> int:
        return len(self._fetches) + len(self._pieces) + len(self._taking) + len(self._writing)

    # -- fetching ---------------------------------------------------------------------------------------------------

    def fetch(self, source: Held, kept: bool, now: float) -> None:
        """Get a value from its holders, unless that is under way."""
        fetch = self._fetches.get(source.key)
        if fetch is not None:
            fetch.kept |= kept
            tried = {holder for _, holder in fetch.tried}
            fetch.addresses |= addresses_of(source)
            fetch.holders += [pair for pair in source.holders if pair not in fetch.holders and pair[0] not in tried]
            return
        fetch = self._fetches[source.key] = _Fetch(source, kept, now)
        self._try_next(fetch, now)

    def has_copy(self, key: Key, store: ObjectStore) -> bool:
        """Whether a value of our own is here to be kept; then the scheduler is told so."""
        value = store.get(key)
        if value is None or value.holder:
            return False
        value.freed = False
        self._emit(Stored(key, value.nbytes, value.path))
        return True

    def _try_next(self, fetch: _Fetch, now: float) -> None:
        self._abandon(fetch)
        if not fetch.holders:
            del self._fetches[fetch.key]
            self._events.value_failed(fetch.key, fetch.tried, fetch.kept, fetch.reason)
            return
        fetch.holder, path = fetch.holders.pop(0)
        fetch.tried.append((fetch.key, fetch.holder))
        fetch.heard = now
        if path and self._may_map:
            self._emit(Probe(fetch.key, path))
        else:
            self._ask_holder(fetch)

    def _ask_holder(self, fetch: _Fetch) -> None:
        """By a connection to it, if it can be had that way."""
        address = fetch.addresses.get(fetch.holder)
        if not address or not self._may_connect:
            self._ask_parts(fetch)
            return
        self._last_transfer += 1
        transfer = self._last_transfer
        self._pulls[transfer] = fetch
        self._emit(Pull(fetch.key, transfer, address, self._new_path(fetch.size), fetch.size))

    def pulled(self, event: Pulled, now: float) -> None:
        """A value came by a connection, or didn't."""
        fetch = self._pulls.pop(event.transfer, None)
        if fetch is None:
            if event.nbytes >= 0 and event.data is None:
                self._emit(Unlink(event.path))
        elif event.missing:
            self._try_next(fetch, now)
        elif event.nbytes < 0:
            fetch.heard = now
            self._ask_parts(fetch)
        else:
            self._observe(event.nbytes, now - fetch.begun)
            path = "" if event.data is not None else event.path
            self._fetched(fetch, StoredValue(event.nbytes, event.data, path, freed=not fetch.kept))

    def _abandon(self, fetch: _Fetch) -> None:
        if self._transfers.pop(fetch.transfer, None) is not None and fetch.asked:
            self._emit(DataEnough(fetch.transfer))
        if fetch.path:
            self._writing.pop(fetch.path, None)
            self._emit(Unlink(fetch.path))
        fetch.path = fetch.inbox = ""
        fetch.nbytes = fetch.attempt = -1
        fetch.asked = fetch.got = 0
        fetch.seen.clear()

    def probed(self, event: Probed) -> None:
        """Whether the holder's file can be opened here."""
        fetch = self._fetches.get(event.key)
        if fetch is None:
            return
        if not event.ok:
            self._ask_holder(fetch)
        elif fetch.kept:
            self._taking[fetch.key] = fetch.size
            self._emit(TakeFile(fetch.key, event.path, self._new_path(fetch.size), move=False))
        else:
            del self._fetches[fetch.key]
            value = StoredValue(fetch.size, None, event.path, freed=True, holder=fetch.holder)
            self._events.value_arrived(fetch.key, value, False)

    def _ask_parts(self, fetch: _Fetch) -> None:
        self._last_transfer += 1
        fetch.transfer = self._last_transfer
        self._transfers[fetch.transfer] = fetch
        if fetch.size > PART_BYTES and not self._inbox:
            self._open_bulk()
        else:
            fetch.inbox = self._inbox if fetch.size > PART_BYTES else ""
            self._ask_more(fetch)

    def _ask_part(self, fetch: _Fetch, offset: int) -> None:
        wanted = DataWanted(fetch.transfer, fetch.key, offset, PART_BYTES, fetch.holder, "", fetch.inbox, fetch.got)
        self._emit(wanted)

    def _ask_more(self, fetch: _Fetch) -> None:
        """As much as may be on its way; one piece as long as nobody has said how large it is."""
        end = fetch.nbytes if fetch.nbytes >= 0 else 1
        while fetch.asked < end and fetch.asked - fetch.got < PARTS_AHEAD * PART_BYTES:
            fetch.asked += PART_BYTES
            self._ask_part(fetch, fetch.asked - PART_BYTES)

    def _open_bulk(self) -> None:
        if not self._opening:
            self._opening = True
            self._emit(OpenBulk())

    def inbox(self, event: BulkInbox) -> None:
        """Pieces can be sent to another place than before, or nowhere but by the scheduler; go on from where we are."""
        wanted, self._opening = self._opening, False
        self._inbox = event.inbox
        large = [fetch for fetch in self._transfers.values() if fetch.size > PART_BYTES]
        if not wanted and not event.inbox:
            if large:
                self._open_bulk()  # it broke
            return
        for fetch in large:
            if not fetch.asked:
                fetch.inbox = event.inbox
                self._ask_more(fetch)
            elif fetch.inbox != event.inbox or fetch.renewed > fetch.heard:
                fetch.inbox = event.inbox
                for offset in range(0, fetch.asked, PART_BYTES):
                    if offset not in fetch.seen:
                        self._ask_part(fetch, offset)

    def part(self, message: DataPart, now: float) -> None:
        """A piece of a value we asked for."""
        fetch = self._transfers.get(message.transfer)
        if fetch is None or fetch.key != message.key:
            return
        fetch.heard = now
        if message.nbytes < 0:
            self._transfers.pop(fetch.transfer)  # the scheduler knows that it has ended
        if message.nbytes < 0 or (fetch.nbytes >= 0 and message.nbytes != fetch.nbytes):
            self._try_next(fetch, now)
            return
        if fetch.nbytes >= 0 and message.attempt != fetch.attempt:  # it was made anew meanwhile
            self._abandon(fetch)
            self._ask_parts(fetch)
            return
        if message.offset in fetch.seen:
            return
        first = fetch.nbytes < 0
        fetch.nbytes, fetch.attempt = message.nbytes, message.attempt
        fetch.renew_after = RENEW
        if first and len(message.data) == message.nbytes:
            if fetch.inbox:
                self._emit(DataEnough(fetch.transfer))
            self._fetched(fetch, StoredValue(message.nbytes, message.data, freed=not fetch.kept))
            return
        if first:
            fetch.path = self._new_path(message.nbytes)
        fetch.seen.add(message.offset)
        fetch.got += len(message.data)
        complete = fetch.got >= fetch.nbytes
        self._emit(WritePart(fetch.path, message.offset, message.data, message.nbytes, complete))
        if complete:
            self._observe(fetch.nbytes, now - fetch.begun)
            self._transfers.pop(fetch.transfer, None)
            self._emit(DataEnough(fetch.transfer))
            fetch.transfer = 0
            self._writing[fetch.path] = partial(self._complete, fetch)
            return
        self._ask_more(fetch)

    def _complete(self, fetch: _Fetch) -> None:
        path, fetch.path = fetch.path, ""
        self._fetched(fetch, StoredValue(fetch.nbytes, None, path, freed=not fetch.kept))

    def _observe(self, nbytes: int, seconds: float) -> None:
        if nbytes >= WORTH_MEASURING and seconds > 0:
            speed = nbytes / seconds
            self.bandwidth = speed if not self.bandwidth else self.bandwidth + NEWEST * (speed - self.bandwidth)

    def _fetched(self, fetch: _Fetch, value: StoredValue) -> None:
        del self._fetches[fetch.key]
        self._transfers.pop(fetch.transfer, None)
        self._events.value_arrived(fetch.key, value, fetch.kept)

    # -- sent by the scheduler --------------------------------------------------------------------------------------

    def adopt(self, message: AdoptFile) -> None:
        """Take over a client's file."""
        self._taking[message.key] = message.nbytes
        self._emit(TakeFile(message.key, message.path, self._new_path(message.nbytes), move=True))

    def taken(self, event: Taken) -> None:
        """A file is ours now, or can't be."""
        nbytes = self._taking.pop(event.key, None)
        if nbytes is None:
            self._emit(Unlink(event.target))
            return
        fetch = self._fetches.get(event.key)
        if event.reason and fetch is not None:
            self._ask_holder(fetch)
        elif event.reason:
            self._events.value_failed(event.key, [], True, event.reason)
        else:
            self._fetches.pop(event.key, None)
            self._events.value_arrived(event.key, StoredValue(nbytes, None, event.target), True)

    def store(self, message: Store) -> None:
        """Keep a value that came whole."""
        size = len(message.value)
        if size <= INLINE_LIMIT:
            self._events.value_arrived(message.key, StoredValue(size, message.value), True)
        else:
            self.store_part(StorePart(message.key, 0, size, message.value))

    def store_part(self, message: StorePart) -> None:
        """A piece of a value the scheduler wants kept."""
        key, offset, nbytes = message.key, message.offset, message.nbytes
        pieces = self._pieces.get(key)
        if pieces is None:
            pieces = self._pieces[key] = _Pieces(self._new_path(nbytes))
        if offset in pieces.seen:
            return
        pieces.seen.add(offset)
        pieces.got += len(message.data)
        complete = pieces.got >= nbytes
        self._emit(WritePart(pieces.path, offset, message.data, nbytes, complete))
        if complete:
            self._writing[pieces.path] = partial(self._stored, key, nbytes, pieces.path)

    def _stored(self, key: Key, nbytes: int, path: str) -> None:
        if self._pieces.pop(key, None) is not None:
            self._events.value_arrived(key, StoredValue(nbytes, None, path), True)

    def written(self, event: Written) -> None:
        """A file is whole."""
        then = self._writing.pop(event.path, None)
        if then is None:
            self._emit(Unlink(event.path))  # it was given up meanwhile
        else:
            then()

    # -- trouble and time -------------------------------------------------------------------------------------------

    def write_failed(self, event: WriteFailed, now: float) -> bool:
        """The disk didn't take a piece; False when nothing on its way has that path."""
        self._writing.pop(event.path, None)
        for key, pieces in self._pieces.items():
            if pieces.path == event.path:
                del self._pieces[key]
                self._events.value_failed(key, [], True, event.reason)
                self._emit(Unlink(event.path))
                return True
        for fetch in self._fetches.values():
            if fetch.path == event.path:
                fetch.holders.clear()
                fetch.reason = event.reason
                self._try_next(fetch, now)
                return True
        return False

    def tick(self, now: float) -> float:
        """Ask again, or the next holder, where one has been silent for too long; when to look again."""
        for fetch in [f for f in self._fetches.values() if f.transfer and now - f.heard >= PATIENCE]:
            self._try_next(fetch, now)
        for fetch in self._transfers.values():
            if fetch.inbox and now - max(fetch.heard, fetch.renewed) >= fetch.renew_after:
                fetch.renewed = now
                fetch.renew_after *= 2
                self._open_bulk()
        return now + self.patience

    @property
    def patience(self) -> float:
        """Seconds after which to look again."""
        return RENEW if any(fetch.size > PART_BYTES for fetch in self._fetches.values()) else PATIENCE

    def clear(self) -> None:
        """Give up everything."""
        for fetch in self._fetches.values():
            self._abandon(fetch)
        for pieces in self._pieces.values():
            self._emit(Unlink(pieces.path))
        self._fetches.clear()
        self._writing.clear()
        self._pulls.clear()
        self._transfers.clear()
        self._opening = False
        self._pieces.clear()
        self._taking.clear()


def holder_of(source: bytes | Held, store: ObjectStore) -> tuple[Key, WorkerId]:
    """The key of an input, and whose file it is; empty for our own."""
    assert isinstance(source, Held)
    value = store.get(source.key)
    return source.key, value.holder if value is not None else ""


def answer(message: DataWanted, store: ObjectStore) -> DataPart | SendPart:
    """The piece that another worker or a client asks for; what we only use in place isn't ours to give."""
    value = store.get(message.key)
    transfer, key, offset, asker = message.transfer, message.key, message.offset, message.asker
    length = max(0, min(message.length, PART_BYTES))
    if value is None or value.holder:
        return DataPart(transfer, key, offset, -1, b"", asker)
    if value.data is not None:
        data = value.data[offset : offset + length]
        return DataPart(transfer, key, offset, value.nbytes, data, asker, value.attempt)
    return SendPart(transfer, key, asker, value.path, offset, length, value.nbytes, value.attempt, message.inbox)
