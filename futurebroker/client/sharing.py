"""What locks, semaphores, events, queues and variables have in common: a name, and a client to ask the scheduler by."""

from __future__ import annotations

import secrets
from typing import Any

from futurebroker.client.connection import Connection
from futurebroker.client.core import ClientCore
from futurebroker.exceptions import SchedulerRestartedError


class SharedByName:
    """A thing that the scheduler knows by ``name``; equal names mean the same thing everywhere in the cluster.

    It can be pickled, and then belongs to the current client where it is opened. With an asynchronous client, as it is
    in ``async def`` tasks, methods return awaitables. A task that waits gives up its slot meanwhile.

    Args:
        name: any text; None makes one up.
        client: whom to ask by; default the current client, whenever something is asked.
    """

    def __init__(self, name: str | None = None, client: ClientCore | None = None) -> None:
        self.name = name or f"{type(self).__name__.lower()}-{secrets.token_hex(8)}"
        self._given = client

    @property
    def _client(self) -> ClientCore:
        return self._given or ClientCore.current()

    def _enter(self, work: Any) -> Any:
        return self._client._enter(work)

    async def _ask(self, topic: str, blocking: bool, op: str = "", **about: Any) -> Any:
        """The scheduler's answer; asked again if it was restarted in the meantime."""
        return await self._question(topic, blocking, {"name": self.name, "op": op or secrets.token_hex(8), **about})

    async def _question(self, topic: str, blocking: bool, about: Any = None) -> Any:
        connection: Connection = self._client._connection
        while True:
            try:
                return await connection.ask(topic, about or self.name, blocking)
            except SchedulerRestartedError:
                continue

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"


def seconds(timeout: Any) -> float | None:
    """A timeout as seconds.

    Raises:
        TypeError: it isn't a number or None.
    """
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise TypeError(f"timeout= takes seconds, got {type(timeout).__name__}")
    return None if timeout is None else float(timeout)
