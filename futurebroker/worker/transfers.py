"""An agent's connections for data: it serves its values to others, and pulls theirs, on threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from futurebroker.data.channel import Credentials
from futurebroker.data.objectstore import ObjectStore
from futurebroker.data.pool import MissingError, Pool, UnreachableError
from futurebroker.data.server import DataServer, Source
from futurebroker.data.valuefiles import ValueFiles
from futurebroker.data.ways import BULK, DIRECT, WAYS, credentials_of, listening_place
from futurebroker.exceptions import FuturebrokerError
from futurebroker.protocol.bulk import Bulk
from futurebroker.protocol.messages import INLINE_LIMIT
from futurebroker.worker.commands import BulkInbox, Damaged, Delivered, Event, Pull, Pulled
from futurebroker.worker.memory import Memory

logger = logging.getLogger("futurebroker.worker")

#: values pulled at a time
AT_ONCE = 4


class Transfers:
    """See the top of this file. Used from the loop's thread only.

    Args:
        name: the agent's id.
        transfer: see `futurebroker.config.data_transfer`.
        feed: takes an event for the machine.
        bulk_url: see `Member.bulk_url`.
    """

    def __init__(
        self,
        name: str,
        transfer: Mapping[str, Any],
        where: Mapping[str, Any],
        files: ValueFiles,
        feed: Callable[[Event], None],
        loop: asyncio.AbstractEventLoop,
        bulk_url: Callable[[], str],
    ) -> None:
        self.ways = frozenset(transfer.get("ways", WAYS))
        self._credentials: Credentials = credentials_of(transfer, where["secret"], where["cluster"])
        self._place = listening_place(transfer.get("address", "auto"), where["url"]) if DIRECT in self.ways else None
        self._files = files
        self._feed = feed
        self._loop = loop
        self._server: DataServer | None = None
        self._pool = Pool(self._credentials, files.freed)
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False
        #: the second connection to the broker
        self.bulk = Bulk(
            name,
            cluster=where["cluster"],
            secret=where["secret"],
            loop=loop,
            where=bulk_url if BULK in self.ways else str,
            take=lambda part: self._give(Delivered([part])),
            moved=lambda inbox: self._give(BulkInbox(inbox)),
        )

    @property
    def address(self) -> str:
        """Where others can get our values; empty: nowhere."""
        return self._server.address if self._server is not None else ""

    def start(self, store: ObjectStore, memory: Memory) -> None:
        """Listen, if that is wanted; what can't be listened at is said, and other ways are taken."""
        if self._place is None:
            return

        def find(key: str) -> Source | None:
            value = store.get(key)  # a dict's: good from any thread
            if value is None or value.holder:
                return None
            return Source(value.nbytes, value.data, value.path, value.attempt)

        host, port = self._place
        try:
            self._server = DataServer(
                host, self._credentials, find, lambda nbytes: self._files.new_path(memory.to_disk(nbytes)),
                self._damaged, port, self._files.freed,
            )  # fmt: skip
        except OSError as error:
            logger.warning("can't listen at %s for direct transfers: %s", host, error)

    def _damaged(self, key: str, path: str, reason: str) -> None:
        self._tell(Damaged(key, path, reason))

    def _tell(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._give, event)

    def _give(self, event: Event) -> None:
        if not self._closed:
            self._feed(event)

    def pull(self, instruction: Pull) -> None:
        """Get a value from who has it; `Pulled` follows."""
        if not self._pool.may_reach(instruction.address):
            self._loop.call_soon(self._give, Pulled(instruction.key, instruction.transfer, instruction.path, -1, None))
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(AT_ONCE, "data-fetch")
        self._threads.submit(self._pull, instruction)

    def _pull(self, pull: Pull) -> None:
        nbytes, data, missing, reason = -1, None, False, ""
        try:
            if pull.nbytes <= INLINE_LIMIT:
                data = bytes(self._pool.fetch(pull.address, pull.key))
                nbytes = len(data)
            else:
                nbytes = self._pool.fetch_to(pull.address, pull.key, pull.path)
        except MissingError:
            missing = True
        except UnreachableError as error:
            reason = str(error)
            logger.info("%s; values of that worker come another way", error)
        except (OSError, FuturebrokerError) as error:
            reason = str(error)
            logger.warning("%s could not be fetched directly: %s", pull.key, error)
        self._tell(Pulled(pull.key, pull.transfer, pull.path, nbytes, data, missing, reason))

    def figures(self) -> dict[str, int]:
        """What heartbeats tell, in bytes since the start."""
        sent = self._server.sent if self._server is not None else 0
        return {
            "direct_sent": sent,
            "direct_received": self._pool.fetched,
            "bulk_sent": self.bulk.sent_bytes,
            "bulk_received": self.bulk.received_bytes,
        }

    def close(self) -> None:
        """End all connections; call it from a thread that may wait."""
        self._closed = True
        self._pool.close()
        if self._server is not None:
            self._server.close()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
