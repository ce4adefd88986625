"""A scheduler that survives: it leads by a lease, writes a journal, and goes on where the one before it stopped.

It starts by taking the lead, replaying the journal, and asking everybody who was there to meet again. Clients go on
with the sessions they had; workers come as new ones and tell what they hold and run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from futurebroker.config import hide_password
from futurebroker.exceptions import DatabaseError, DatabaseInUseError
from futurebroker.persistence import lease, revisions
from futurebroker.persistence.database import open_engine, parse_url
from futurebroker.persistence.datasets import outdated
from futurebroker.persistence.journal import Journal
from futurebroker.processes import apart, has_ended, process_mark
from futurebroker.protocol.durable import DurableEndpoint
from futurebroker.protocol.facts import VERSION, Batch, Cursor, encode_batch
from futurebroker.protocol.messages import Hello, Inventory, MeetAgain, Welcome
from futurebroker.protocol.wire import Seal
from futurebroker.scheduler import catalog, resuming
from futurebroker.scheduler.archives import Archives, default_folder, folder_of
from futurebroker.scheduler.commands import Command, WorkersBack
from futurebroker.scheduler.durability import Durability
from futurebroker.scheduler.folding import Folding
from futurebroker.scheduler.presence import Contact
from futurebroker.scheduler.restoring import Restored, restore
from futurebroker.scheduler.service import SchedulerService
from futurebroker.scheduler.state import Policy
from futurebroker.types import Peer, Role

logger = logging.getLogger("futurebroker.scheduler")

#: seconds that workers of a former scheduler's time have to come back, before what they may run is sent to others
COME_BACK = 10.0
#: seconds between a standby's attempts to lead
STANDBY_EVERY = 0.5
#: milliseconds a commit on the loop waits for another writer of the file; it is tried again soon
BUSY_TIMEOUT = 1
#: bytes of journal after which it is folded into a checkpoint
JOURNAL_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Storage:
    """What survives, and where."""

    mode: str  #: process: the end of this process; full: that of the machine too
    database: str  #: URL
    standby: bool = False  #: wait for the end of who leads
    journal_limit: int = JOURNAL_LIMIT
    come_back: float = COME_BACK
    detached_keep: float = 0.0  #: see `state.Policy`
    #: folder of what is published with ``persist="store"``; None for one beside the database
    store: str | None = None


class DurableScheduler(SchedulerService):
    """See the top of this file; arguments are those of `SchedulerService`, and the storage."""

    _endpoint: DurableEndpoint

    def __init__(self, storage: Storage, **settings: Any) -> None:
        policy = replace(settings.pop("policy", None) or Policy(), detached_keep=storage.detached_keep)
        super().__init__(policy=policy, **settings)
        self.storage = storage
        #: why it ended, when it wasn't told to
        self.failure: DatabaseError | None = None
        self.restored = Restored(0)
        self._durability: Durability | None = None
        self._folding: Folding | None = None
        self._journal: Journal | None = None
        self._archives = Archives(self.apply)
        #: clients whose sessions go on
        self._resuming: set[str] = set()
        #: workers that were there before and have not yet told what they hold, with the marks of their processes
        self._awaited: dict[str, str] = {}
        #: whether it closes: what is said from then on is for the next to hear
        self._leaves = False

    # -- starting and ending ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Lead, restore, and serve from now on; a standby first waits until it can lead.

        Raises:
            DatabaseInUseError: another scheduler leads.
        ClusterShutDownError: who led ended with the whole cluster, while this one stood by.
            DatabaseError: the database can't be used, or holds what can't be read.
            OSError: as of `SchedulerService.start`.
        """
        try:
            await super().start()
        except BaseException:
            await self._give_up()
            raise
        self._meet_again()

    async def _prepare(self) -> None:
        journal = self._journal = await self._lead()
        self._endpoint = self._make_endpoint(DurableEndpoint)
        self._endpoint.epoch = journal.epoch
        began = time.monotonic()
        state = self.machine.state
        restored = self.restored = restore(journal, state, self._loop.time() - time.time())
        state.facts = []
        # The first row says how this epoch's clock goes, and takes the number that a former leader would write next.
        now = self._loop.time()
        first = encode_batch(Batch(VERSION, now, time.time()))
        published = await asyncio.to_thread(outdated, journal.engine, self.cluster, catalog.begin(state))
        await asyncio.to_thread(journal.append, restored.sequence + 1, first, published)
        self._durability = Durability(
            journal,
            restored.sequence + 1,
            state,
            self._endpoint,
            let_out=super()._carry_out,
            cursor_of=self._cursor,
            heard=self._hear,
            ended=self._end,
        )
        self._folding = Folding(
            self.storage.database, self._secret, self._durability, restored, state.policy, self.storage.journal_limit
        )
        if restored.sequence:
            logger.info(
                "read %d facts and a checkpoint of %.1f MiB in %.2f s: %d tasks", restored.facts,
                restored.folded_bytes / 2**20, time.monotonic() - began, len(state.tasks),
            )  # fmt: skip
        self._restore_peers(restored)
        storage = self.storage
        folder = default_folder(storage.database) if storage.store is None else storage.store
        await self._archives.open(state, self._endpoint, journal, storage.database, folder, Seal(self._secret))
        if folder:
            place = folder_of(folder, self.cluster, storage.database)
            self._errands.keep_in(place.with_suffix(".environments"))
        self._errands.start_plugins()
        resuming.ready(state, journal.epoch, self._loop.time(), self.storage.come_back)

    async def _lead(self) -> Journal:
        """Take the lead; a standby waits for it."""
        check_place(self.storage)
        engine = open_engine(self.storage.database)
        holder = lease.Holder(self._me.incarnation, process_mark(), hide_password(self._broker_url or self._place()))
        patience = self._loop.time() + lease.TERM + 1.0
        waited = False
        try:
            await asyncio.to_thread(revisions.prepare, engine)
            while True:
                try:
                    epoch = await asyncio.to_thread(lease.take, engine, self.cluster, holder, has_ended, waited=waited)
                    break
                except DatabaseInUseError as error:
                    # A lease whose holder can't be seen from here runs out by itself if that one is dead.
                    if not self.storage.standby and (self._loop.time() > patience or _renewed(engine, self.cluster)):
                        raise
                    if not waited:
                        logger.info("waiting to lead: %s", error)
                        waited = True
                except DatabaseError as error:
                    if not self.storage.standby:
                        raise
                    logger.warning("waiting to lead: %s", error)
                await asyncio.sleep(STANDBY_EVERY)
        finally:
            engine.dispose()
        return Journal(
            open_engine(self.storage.database, busy_timeout=BUSY_TIMEOUT), self.cluster, epoch, Seal(self._secret)
        )

    def _place(self) -> str:
        return f"{self._host}:{self._port}"

    async def _give_up(self) -> None:
        """It did not come to serve: let another."""
        await self._archives.close()
        if self._durability is not None:
            await self._durability.close()
        elif self._journal is not None:
            try:
                await apart(lease.release, self._journal.engine, self.cluster, self._journal.epoch)
            except DatabaseError as error:
                logger.warning("the lease could not be given back, and runs out by itself: %s", error)
            self._journal.close()

    async def close(self) -> None:
        """See `SchedulerService.close`."""
        if self._folding is not None:
            await self._folding.close()
        await self._archives.close()
        if self._durability is not None:
            # What is heard from here on would be done and noted, and then done again by the next, who can't know of it.
            self._leaves = True
            self._endpoint.is_deaf = True
            await self._durability.close()
        await super().close()

    async def finished(self) -> None:
        """Return when the service has been closed.

        Raises:
            LeadershipLostError: another scheduler leads now.
        """
        await super().finished()
        if self.failure is not None:
            raise self.failure

    def _end(self, error: DatabaseError) -> None:
        logger.error("%s; this one ends", error)
        self.failure = error
        self._ending = self._loop.create_task(self.close())

    def _about_storage(self) -> dict[str, Any]:
        epoch = self._journal.epoch if self._journal is not None else 0
        return {"journal": self.storage.mode, "epoch": epoch}

    # -- hooks of the service ---------------------------------------------------------------------------------------

    def _carry_out(self, commands: list[Command]) -> None:
        assert self._durability is not None
        self._durability.carry_out(commands)

    def deliver(self, peer: Peer, messages: list[Any]) -> None:
        """See `EndpointEvents.deliver`."""
        super().deliver(peer, messages)
        assert self._durability is not None
        self._durability.arrived(peer.name)
        if self._awaited and peer.name in self._awaited:
            if any(type(message) is Inventory and message.last for message in messages):
                self._came_back(peer.name)

    def _greet(self, peer: Peer, hello: Hello) -> None:
        if peer.name in self._resuming and self._endpoint.peer(peer.name) == peer and hello.epoch:
            if hello.epoch != self._endpoint.epoch:
                # It counts what a former scheduler sent; we have sent nothing that it could have.
                self._endpoint.skip(peer.name, hello.oldest - 1)
                hello.received = 0
            else:
                self._resuming.discard(peer.name)
        super()._greet(peer, hello)
        assert self._durability is not None
        if peer.name in self._contacts:
            self._durability.changed(peer.name)

    def _welcome(self, peer: Peer) -> Welcome:
        welcome = super()._welcome(peer)
        welcome.resumed = peer.name in self._resuming
        return welcome

    def _forget(self, name: str) -> None:
        super()._forget(name)
        self._resuming.discard(name)
        if self._durability is not None:
            self._durability.changed(name)

    def _sweep(self) -> None:
        super()._sweep()
        for name, process in list(self._awaited.items()):
            if has_ended(process):
                self._came_back(name)
        if self._folding is not None:
            self._folding.look()
            self.machine.state.about.update(self._folding.figures())

    # -- who was there before ---------------------------------------------------------------------------------------

    def _restore_peers(self, restored: Restored) -> None:
        now = self._loop.time()
        for cursor in restored.cursors.values():
            if cursor.role == Role.WORKER:
                self._awaited[cursor.name] = cursor.process
                continue
            peer = Peer(Role(cursor.role), cursor.name, cursor.incarnation)
            self._endpoint.restore(peer, cursor.inbox, cursor.received)
            self._resuming.add(cursor.name)
            contact = self._contacts[cursor.name] = Contact(peer, cursor.inbox, now, self._rhythm.busy)
            contact.name, contact.suspected_at = cursor.name, now

    def _meet_again(self) -> None:
        """Tell everybody who was there; who reads by a link that ended with the former scheduler comes by itself."""
        self._archives.tell_inventories()
        for cursor in self.restored.cursors.values():
            peer = Peer(Role(cursor.role), cursor.name, cursor.incarnation)
            forgotten = cursor.role == Role.WORKER
            self._endpoint.send_meeting(peer, cursor.inbox, MeetAgain(cursor.incarnation, forgotten))
        if not self._awaited:
            self.apply(WorkersBack())

    def _came_back(self, name: str) -> None:
        """A worker has told what it holds, or is known to be dead."""
        del self._awaited[name]
        if not self._awaited:
            self.apply(WorkersBack())

    def _cursor(self, name: str) -> Cursor | None:
        contact = self._contacts.get(name)
        if contact is None:
            return None
        peer = contact.peer
        worker = self.machine.state.workers.get(name)
        process = str(worker.info.get("process") or "") if worker is not None else ""
        return Cursor(peer.role, name, peer.incarnation, self._endpoint.received_up_to(name), contact.inbox, process)

    def _hear(self, heard: bool) -> None:
        """The journal can't be written, or can again; who was not heard meanwhile has kept what it said."""
        self._endpoint.is_deaf = self._leaves or not heard
        self.machine.state.about["journal"] = self.storage.mode if heard else f"{self.storage.mode}, not writable"
        if heard:
            for contact in self._contacts.values():
                self._endpoint.send_meeting(contact.peer, contact.inbox, MeetAgain(contact.peer.incarnation))


def storage_for(orders: Mapping[str, Any]) -> Storage:
    """The storage that orders speak of."""
    return Storage(**orders)


def check_place(storage: Storage) -> None:
    """See that what is written there will still be there.

    Raises:
        DatabaseError: it is a file on a disk that is thrown away, or the mode asks for more than it can give.
    """
    url = parse_url(storage.database)
    if url.get_backend_name() != "sqlite":
        return
    if "DYNO" in os.environ:
        raise DatabaseError(
            storage.database,
            "this is a Heroku dyno, whose disk is thrown away with each restart, and a file there survives nothing; "
            "add Heroku Postgres, which sets DATABASE_URL, or start with --journal none",
        )
    if storage.mode == "full":
        raise DatabaseError(
            storage.database,
            "a SQLite file survives the end of this process, not that of the machine; "
            "name a PostgreSQL server with DATABASE_URL, or start with --journal process",
        )
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DatabaseError(storage.database, f"its folder can't be made: {error}") from error


def _renewed(engine: Any, cluster: str) -> bool:
    """Whether who leads renews the lease, and so lives; a lease that isn't renewed has less than this left."""
    found = lease.look(engine, cluster)
    return found is not None and found.left > lease.TERM - lease.RENEW_EVERY
