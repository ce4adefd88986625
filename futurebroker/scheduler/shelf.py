"""Writes kept results to the database and looks them up, in a thread of its own: the other side of `shelving`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from futurebroker.exceptions import ProtocolError
from futurebroker.persistence.results import KeptResults
from futurebroker.scheduler.aside import Aside
from futurebroker.scheduler.shelving import Drop, Seek, Shelve, Sought, Written

logger = logging.getLogger("futurebroker.scheduler")

#: seconds until a question is asked again that the database could not answer
AGAIN = 1.0
#: seconds between looks for rows whose time has come, and between two while there are more
SWEEP_EVERY = 60.0
SWEEP_ON = 0.5


class ResultShelf(Aside):
    """See the top of this file. Belongs to the loop that it is made on.

    Args:
        say: takes what it has to say, as a worker's messages.
    """

    def __init__(self, results: KeptResults, say: Callable[[list[Any]], None]) -> None:
        super().__init__("results")
        self._results = results
        self._say = say
        self._sweep_later(SWEEP_ON)

    def tell(self, messages: Sequence[Any]) -> None:
        """Messages of the machine; whatever follows from them comes later."""
        for message in messages:
            kind = type(message)
            if kind is Shelve:
                keys = [key for key, _, _ in message.rows]
                self._run(partial(self._results.write, message.rows), partial(self._wrote, keys))
            elif kind is Seek:
                self._seek(message)
            elif kind is Drop:
                self._run(partial(self._results.delete, message.keys), partial(self._dropped, message))

    def _wrote(self, keys: list[str], done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            logger.warning("%d results stay in memory for now, the database can't take them: %s", len(keys), error)
        self._say([Written(keys, "" if error is None else str(error))])

    def _seek(self, message: Seek) -> None:
        if not self._closed:
            self._run(partial(self._results.read, message.keys), partial(self._read, message))

    def _read(self, message: Seek, done: Future[list[bytes]]) -> None:
        error = done.exception()
        if isinstance(error, ProtocolError):
            logger.error("a kept result in the database was altered, and counts as not there: %s", error)
            self._say([Sought(message.number, [])])
        elif error is not None:
            # Who asks waits: that it can't be read now doesn't mean that it isn't there.
            logger.warning("kept results can't be looked up: %s", error)
            self._loop.call_later(AGAIN, self._seek, message)
        else:
            self._say([Sought(message.number, done.result())])

    def _dropped(self, message: Drop, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            logger.warning("%d results stay in the database until their time: %s", len(message.keys), error)

    def _sweep_later(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._run, self._results.sweep, self._swept)

    def _swept(self, done: Future[int]) -> None:
        error = done.exception()
        if error is not None:
            logger.warning("old results can't be removed: %s", error)
        self._sweep_later(SWEEP_ON if error is None and done.result() else SWEEP_EVERY)

    async def close(self) -> None:
        """Write what was begun to be written, and end. May be called twice."""
        if not self._closed:
            self._closed = True
            self._timer.cancel()
            await self._finish()
            self._results.close()
