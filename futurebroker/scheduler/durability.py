"""Writes what the machine noted, and lets out what must not be told before it is written.

Work for workers leaves at once, but for tasks that must not run twice. What tells a client, acknowledges an envelope or
frees a result waits for the commit of the batch that it follows from, in order. A batch is what collected until the
loop went idle, for 5 ms at most, or until the batch before was written. A journal that can't be written stops nothing
at first; after a moment peers are not heard any more, and send again what they said once it can.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from futurebroker.exceptions import DatabaseError, LeadershipLostError
from futurebroker.persistence import lease
from futurebroker.persistence.database import is_sqlite, shown
from futurebroker.persistence.journal import Journal
from futurebroker.processes import apart
from futurebroker.protocol.durable import Delivery, DurableEndpoint
from futurebroker.protocol.facts import VERSION, Batch, Cursor, encode_batch
from futurebroker.protocol.messages import (
    AdoptFile,
    Free,
    Leave,
    Replicate,
    Run,
    Store,
    StorePart,
)
from futurebroker.scheduler import catalog
from futurebroker.scheduler.commands import Command, Forget, Send
from futurebroker.scheduler.state import SchedulerState

logger = logging.getLogger("futurebroker.scheduler")

#: seconds a batch collects at most
GATHER = 0.005
#: seconds between attempts to write, the first and at most
RETRY_FIRST = 0.005
RETRY_MAX = 1.0
#: seconds a journal may be unwritable before it is said and peers are not heard any more
PATIENCE = 1.0
#: facts that may wait to be written before peers are not heard any more
FACTS_MAX = 200_000

#: messages to workers that wait for the commit
_WAITING = frozenset((Free, Leave))
#: messages that give a worker a result anew; see `Durability._keep_given`
_GIVING = frozenset((Run, Store, AdoptFile, StorePart, Replicate))


@dataclass(slots=True)
class _Written:
    """A batch on its way to the database."""

    sequence: int
    body: bytes
    commands: list[Command]
    arrived: list[tuple[str, int]]
    delivery: Delivery | None
    began: float
    published: Mapping[str, Any]  #: datasets that have changed with it, see `catalog.take`
    uncertain: bool = False  #: an attempt failed, and may have been carried out all the same


class Durability:
    """See the top of this file; belongs to one loop.

    Args:
        sequence: number of the newest row.
        let_out: carries commands out.
        cursor_of: how far the session of a peer is; None if there is none any more.
        heard: told False when peers are not heard any more, and True when they are again.
        ended: told when another scheduler leads.
    """

    def __init__(
        self,
        journal: Journal,
        sequence: int,
        state: SchedulerState,
        endpoint: DurableEndpoint,
        *,
        let_out: Callable[[list[Command]], None],
        cursor_of: Callable[[str], Cursor | None],
        heard: Callable[[bool], None],
        ended: Callable[[DatabaseError], None],
    ) -> None:
        self.journal = journal
        self.sequence = sequence
        #: bytes written since this began
        self.written = 0
        #: what `written` may come to before the journal is folded; None while folding doesn't work
        self.most: int | None = None
        self._state = state
        self._endpoint = endpoint
        self._let_out = let_out
        self._cursor_of = cursor_of
        self._heard = heard
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        #: a file is written on the loop: a thread beside a busy loop takes twenty times as long
        self._thread = None if is_sqlite(journal.engine) else ThreadPoolExecutor(1, "futurebroker-journal")
        self._later: list[Command] = []
        self._freed: set[str] = set()
        #: workers with a Run that waits for the commit: what follows on it waits as well, so that it comes after it
        self._held: set[str] = set()
        self._arrived: dict[str, None] = {}
        self._dirty: dict[str, None] = {}
        self._batch: _Written | None = None
        self._armed = False
        self._armed_at = 0.0
        self._events = 0
        self._seen = 0
        self._pause = RETRY_FIRST
        self._retry: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._deaf = False
        self._closed = False
        endpoint.on_delivery = self._arm
        self._renew_later()

    # -- what the service tells -------------------------------------------------------------------------------------

    def carry_out(self, commands: list[Command]) -> None:
        """Let out what may leave now, and keep the rest until what it follows from is written."""
        self._events += 1
        if not self._state.facts and self._batch is None:
            if self._later:
                self._later += commands
            else:
                self._let_out(commands)
            return
        if not self._armed:
            self._arm()
        workers = self._state.workers
        freed, guarded, held = self._freed, self._state.guarded, self._held
        now: list[Command] = []
        for command in commands:
            if type(command) is Forget:
                self._later = [one for one in self._later if one.peer != command.peer]
                now.append(command)
            elif command.peer not in workers:
                self._later.append(command)
            else:
                assert type(command) is Send
                message: Any = command.message
                kind: Any = type(message)
                if kind is Run and guarded and message.key in guarded:
                    self._later.append(command)
                    held.add(command.peer)
                elif kind in _WAITING or command.peer in held:
                    self._later.append(command)
                    if kind is Free:
                        freed.update(message.keys)
                else:
                    if freed and kind in _GIVING:
                        self._keep_given(command.peer, message)
                    now.append(command)
        if now:
            self._let_out(now)

    def _keep_given(self, worker: str, message: Any) -> None:
        """A worker gets a result anew: a Free of the former that still waits must not take this one."""
        key = message.source.key if type(message) is Replicate else message.key
        if key not in self._freed:
            return
        for commands in (self._later, self._batch.commands if self._batch is not None else []):
            for place, command in enumerate(commands):
                if command.peer == worker and type(command) is Send and type(command.message) is Free:
                    keys = [one for one in command.message.keys if one != key]
                    commands[place] = Send(worker, Free(keys))

    def arrived(self, name: str) -> None:
        """All that a peer has sent so far has been given to the machine."""
        self._arrived[name] = None
        if not self._armed:
            self._arm()

    def changed(self, name: str) -> None:
        """A session has begun or ended: the next scheduler must know."""
        self._dirty[name] = None
        if not self._armed:
            self._arm()

    # -- batches ----------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Look at the end of this turn of the loop."""
        if not self._armed and not self._closed:
            self._armed = True
            self._armed_at = self._loop.time()
            self._seen = self._events
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        if self._batch is not None or self._closed:
            self._armed = False  # looked at again when that one is written
            return
        if not self._state.facts and not self._dirty:
            self._armed = False
            self._settle([(name, self._endpoint.received_up_to(name)) for name in self._arrived])
            return
        if self._events != self._seen and self._loop.time() - self._armed_at < GATHER:
            self._seen = self._events
            self._loop.call_soon(self._look)
            return
        self._armed = False
        self._begin()

    def _settle(self, arrived: Sequence[tuple[str, int]]) -> None:
        """Nothing has to be written for these."""
        self._arrived.clear()
        self._endpoint.clear(arrived)
        delivery = self._endpoint.take_delivery()
        if delivery is not None:
            self._endpoint.settle(delivery)
        later, self._later = self._later, []
        if later:
            self._let_out(later)

    def _begin(self) -> None:
        """Close the batch and write it."""
        facts = self._state.facts or []
        self._state.facts = []
        self._state.guarded.clear()
        arrived = [(name, self._endpoint.received_up_to(name)) for name in self._arrived]
        now = self._loop.time()
        batch = Batch(VERSION, now, time.time(), facts, self._cursors())
        later, self._later = self._later, []
        self._arrived.clear()
        self._freed.clear()
        self._batch = _Written(
            self.sequence + 1,
            encode_batch(batch),
            later,
            arrived,
            self._endpoint.take_delivery(),
            now,
            catalog.take(self._state) if self._state.published.changed else {},
        )
        self._write()

    def _cursors(self) -> list[Cursor]:
        names, self._dirty = {**self._arrived, **self._dirty}, {}
        return [self._cursor_of(name) or Cursor(0, name, "", -1) for name in names]

    def _write(self) -> None:
        self._retry = None
        batch = self._batch
        if batch is None or self._closed:
            return
        if self.most is not None and self.written > self.most:
            where, said = shown(self.journal.engine), "it has grown to its limit, and is being folded"
            self._failed(batch, DatabaseError(where, said))
            return
        if self._thread is not None:
            self._thread.submit(self._append, batch).add_done_callback(
                lambda done: self._loop.call_soon_threadsafe(self._came_back, batch, done)
            )
            return
        try:
            self._append(batch)
        except DatabaseError as error:
            self._failed(batch, error)
        else:
            self._done(batch)

    def _append(self, batch: _Written) -> None:
        try:
            if not batch.uncertain or not self.journal.has(batch.sequence, batch.body):
                batch.uncertain = True
                self.journal.append(batch.sequence, batch.body, batch.published)
        except DatabaseError:
            raise
        except Exception as error:  # whatever a driver raises, the batch isn't given up
            self.journal.disconnect()
            raise DatabaseError(shown(self.journal.engine), f"{type(error).__name__}: {error}") from error

    def _came_back(self, batch: _Written, done: Future[None]) -> None:
        if self._closed:
            return
        error = done.exception()
        if error is None:
            self._done(batch)
        else:
            assert isinstance(error, DatabaseError)
            self._failed(batch, error)

    def _done(self, batch: _Written) -> None:
        self._batch = None
        self.sequence = batch.sequence
        self.written += len(batch.body)
        self._pause = RETRY_FIRST
        self._endpoint.clear(batch.arrived)
        if batch.delivery is not None:
            self._endpoint.settle(batch.delivery)
        if self._deaf:
            self._deaf = False
            logger.warning("the journal is written again")
            self._heard(True)
        self._let_out(batch.commands)
        if self._held:
            self._held = {one.peer for one in self._later if type(one) is Send and type(one.message) is Run}
        if self._state.facts or self._later or self._arrived or self._dirty:
            self._arm()

    def _failed(self, batch: _Written, error: DatabaseError) -> None:
        if isinstance(error, LeadershipLostError):
            self._end(error)
            return
        late = self._loop.time() - batch.began > PATIENCE or len(self._state.facts or ()) > FACTS_MAX
        if late and not self._deaf:
            self._deaf = True
            logger.error(
                "the journal can't be written, so nothing more is taken in, and nothing is said to be done, until it "
                "can: %s", error,
            )  # fmt: skip
            self._heard(False)
        self._retry = self._loop.call_later(self._pause, self._write)
        self._pause = min(self._pause * 2, RETRY_MAX)

    # -- the lease --------------------------------------------------------------------------------------------------

    def _renew_later(self) -> None:
        if not self._closed:
            self._renewal = self._loop.call_later(lease.RENEW_EVERY, self._renew)

    def _renew(self) -> None:
        journal = self.journal
        if self._thread is not None:
            self._thread.submit(lease.renew, journal.engine, journal.cluster, journal.epoch).add_done_callback(
                lambda done: self._loop.call_soon_threadsafe(self._renewed, done)
            )
            return
        done: Future[bool] = Future()
        try:
            done.set_result(lease.renew(journal.engine, journal.cluster, journal.epoch))
        except DatabaseError as error:
            done.set_exception(error)
        self._renewed(done)

    def _renewed(self, done: Future[bool]) -> None:
        error = None if self._closed else done.exception()
        if error is not None and not isinstance(error, DatabaseError):
            raise error
        if not self._closed and error is None and not done.result():
            journal = self.journal
            self._end(LeadershipLostError(journal.cluster, f"another scheduler leads; this one had {journal.epoch}"))
            return
        self._renew_later()

    def _end(self, error: DatabaseError) -> None:
        if not self._closed:
            self._stop()
            self._ended(error)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._closed = True
        for timer in (self._retry, self._renewal):
            if timer is not None:
                timer.cancel()

    async def close(self) -> None:
        """Write what waits, as far as that can be done at once, let it out, and lead no more. May be called twice."""
        if not self._closed:
            await self._write_rest()
            self._stop()
            try:
                ending, journal = self._state.operations.ending, self.journal
                shut = ending is not None and ending.over
                await apart(partial(lease.release, journal.engine, journal.cluster, journal.epoch, shut=shut))
            except DatabaseError as error:
                logger.warning("the lease could not be given back, and runs out by itself: %s", error)
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self.journal.close()

    async def _write_rest(self) -> None:
        self.most = None
        deadline = self._loop.time() + PATIENCE
        while self._loop.time() < deadline:
            if self._batch is None:
                if not self._state.facts and not self._dirty and not self._later:
                    return
                self._begin()
            if self._batch is not None:
                await asyncio.sleep(RETRY_FIRST)
