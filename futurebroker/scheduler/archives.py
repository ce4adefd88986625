"""Opens the archives of a scheduler that survives, one in its database, one in a folder; and its shelf of results."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from futurebroker.exceptions import DatabaseError
from futurebroker.persistence.blobs import Blobs, DatabaseBlobs, FolderBlobs
from futurebroker.persistence.database import open_engine, parse_url
from futurebroker.persistence.journal import Journal
from futurebroker.persistence.results import KeptResults
from futurebroker.protocol.durable import DurableEndpoint
from futurebroker.protocol.messages import Inventory
from futurebroker.protocol.wire import Seal
from futurebroker.scheduler import shelving, storing
from futurebroker.scheduler.archive import Archive
from futurebroker.scheduler.commands import WorkerSaid
from futurebroker.scheduler.published import ARCHIVE
from futurebroker.scheduler.shelf import ResultShelf
from futurebroker.scheduler.state import SchedulerState, Shelf

logger = logging.getLogger("futurebroker.scheduler")


class Archives:
    """All archives of one scheduler, as parties of its endpoint that have no session.

    Args:
        apply: gives the machine an event.
    """

    def __init__(self, apply: Callable[[WorkerSaid], None]) -> None:
        self._apply = apply
        self._archives: dict[str, Archive] = {}
        self._inventories: dict[str, Inventory] = {}
        self._shelf: ResultShelf | None = None

    async def open(
        self, state: SchedulerState, endpoint: DurableEndpoint, journal: Journal, database: str, folder: str, seal: Seal
    ) -> None:
        """Open what can be opened; an archive that can't is said, and counts as not there.

        Raises:
            DatabaseError: the database can't be read.
        """
        places: dict[str, Blobs] = {
            "database": DatabaseBlobs(open_engine(database), journal.cluster, journal.epoch, seal)
        }
        if folder:
            places["store"] = FolderBlobs(folder_of(folder, journal.cluster, database), journal.cluster, seal)
        for name, blobs in places.items():
            archive = Archive(name, blobs, partial(self._said, ARCHIVE + name))
            try:
                inventory = await archive.inventory()
            except DatabaseError as error:
                await archive.close()
                if name == "database":
                    raise
                logger.error("persist=%r can't be used: %s", name, error)
                continue
            peer = storing.open_archive(state, name)
            self._archives[peer], self._inventories[peer] = archive, inventory
            endpoint.inside[peer] = archive.tell
        results = KeptResults(open_engine(database), journal.cluster, journal.epoch, seal)
        self._shelf = ResultShelf(results, partial(self._said, shelving.SHELF))
        state.shelf = Shelf()
        endpoint.inside[shelving.SHELF] = self._shelf.tell

    def tell_inventories(self) -> None:
        """Tell the machine what was there when they were opened."""
        for peer, inventory in self._inventories.items():
            self._said(peer, [inventory])
        self._inventories.clear()

    def _said(self, peer: str, messages: list[Any]) -> None:
        self._apply(WorkerSaid(peer, messages))

    async def close(self) -> None:
        """End them. May be called twice."""
        for archive in self._archives.values():
            await archive.close()
        if self._shelf is not None:
            await self._shelf.close()


def default_folder(database: str) -> str:
    """Where values are stored beside a database: a folder of its name, or of the user's; empty where nothing stays."""
    if "DYNO" in os.environ:
        return ""
    url = parse_url(database)
    if url.get_backend_name() == "sqlite":
        return f"{url.database}.store"
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return str((state if state.is_absolute() else Path("~/.local/state").expanduser()) / "futurebroker" / "store")


def folder_of(folder: str, cluster: str, database: str) -> Path:
    """The place of one cluster and database in the folder; what nobody there knows of is deleted."""
    url = parse_url(database)
    place = f"{cluster}\0{url.render_as_string(hide_password=True)}"
    return Path(folder).expanduser() / hashlib.sha256(place.encode()).hexdigest()[:32]
