"""How a client shows what tasks print, warn and log."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import Any

from futurebroker.client import printing
from futurebroker.client.connection import Connection
from futurebroker.client.tending import InExecutor, Tending
from futurebroker.client.topics import Handler, Topics
from futurebroker.protocol.messages import RunOnExecutors
from futurebroker.protocol.serialize import dumps


class Forwarding(Topics, Tending):
    """Each method returns its answer, or an awaitable with an asynchronous client."""

    def _before_opening(self, connection: Connection) -> None:
        #: names of loggers that are forwarded
        self._forwarded: set[str] = set()
        if self._set_as_default:
            connection.topics["print"] = self._shown(connection, printing.show_print)
            connection.topics["warn"] = self._shown(connection, printing.show_warning)
            printing.showing.add(connection)

    @staticmethod
    def _shown(connection: Connection, show: Handler) -> Any:
        def take(event: tuple[float, Any]) -> None:
            # Most clients are never told anything, and need no thread for it.
            connection.callbacks.start()
            connection.callbacks.put(partial(show, event))

        return take

    def forward_logging(self, logger_name: str | None = None, level: int | str = logging.NOTSET) -> Any:
        """Have what executors log by this logger, and by those below it, logged here as well, by the same names.

        A record must pass the level of its logger there and here: an executor of a `LocalCluster` takes warnings and
        worse. Records have ``task`` and ``worker``, and ``forwarded`` is true. Each executor may send 200 a second.

        Args:
            logger_name: None is the root, and so all loggers.
            level: of the records to send, where it is higher than the logger's.

        Raises:
            ValueError: there is no such level.
        """
        logging.Handler(level)
        connection, name = self._connection, logger_name or ""
        plugin = printing.LogForwarding(name, level, self._topic)

        async def work(blocking: bool) -> None:
            connection.topics[self._topic] = self._shown(connection, printing.show_record)
            await self._asked("subscribe_topic", self._topic, blocking)
            registered = self.register_plugin(plugin, self._plugin(name))
            if inspect.isawaitable(registered):
                await registered
            self._forwarded.add(name)

        return self._enter(work)

    def unforward_logging(self, logger_name: str | None = None) -> Any:
        """Undo `forward_logging`; ValueError if this client doesn't forward that logger."""
        name = logger_name or ""
        if name not in self._forwarded:
            raise ValueError(f"this client doesn't forward {logger_name or 'the root logger'}")
        self._forwarded.discard(name)
        return self.unregister_worker_plugin(self._plugin(name))

    async def _close(self, blocking: bool) -> None:
        if self._live is not None and self.status == "running" and self._forwarded:
            connection = self._connection
            for name in self._forwarded:
                what = f"plugin {self._plugin(name)}"
                code, packed = dumps(InExecutor("tear_down"), what), dumps(((self._plugin(name),), {}), what)
                # Not waited for: an executor may be long busy, and this client has heard enough of it.
                connection.put(RunOnExecutors(connection.number(), code, packed, (), "", what))
        await super()._close(blocking)

    @property
    def _topic(self) -> str:
        return f"log {self.id}"

    def _plugin(self, name: str) -> str:
        return f"forward-logging {name or 'root'} {self.id}"
