"""`Queue` and `Variable`: small data and futures that clients and tasks of a cluster share by name."""

from __future__ import annotations

from typing import Any

from futurebroker.client.connection import Connection
from futurebroker.client.core import ClientCore
from futurebroker.client.futures import opening
from futurebroker.client.sharing import SharedByName, seconds
from futurebroker.exceptions import MessageTooLargeError
from futurebroker.inside import noting_futures
from futurebroker.protocol.serialize import dumps, loads_writable

#: bytes that one item may have
ITEM_LIMIT = 1024 * 1024


class _Holding(SharedByName):
    """What has values in it."""

    def _packed(self, value: Any) -> dict[str, Any]:
        what = f"what is put into {self!r}"
        with noting_futures() as keys:
            data = dumps(value, what)
        if len(data) > ITEM_LIMIT:
            raise MessageTooLargeError(f"{what} (scatter it, and put the future there instead)", len(data), ITEM_LIMIT)
        return {"item": data, "keys": keys}

    def _opened(self, data: bytes) -> Any:
        connection: Connection = self._client._connection
        opening.keeper = connection
        try:
            return loads_writable(data)
        finally:
            opening.keeper = None


class Queue(_Holding):
    """A queue between clients and tasks, as `queue.Queue`: of futures, and of data that is small.

    Futures in it are kept until they are taken out, whoever put them there. It is there from its first use until
    `close`, or as long as the scheduler remembers: with a journal over its restarts, else not.

    Args:
        maxsize: how many items it may have; 0 for any number.
    """

    def __init__(self, name: str | None = None, client: ClientCore | None = None, maxsize: int = 0) -> None:
        super().__init__(name, client)
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 0:
            raise ValueError(f"maxsize= takes 0 or more, got {maxsize!r}")
        self.maxsize = maxsize

    def put(self, value: Any, timeout: float | None = None) -> Any:
        """Put something in; waits while the queue is full.

        Raises:
            TimeoutError: it was full for ``timeout`` seconds.
            SerializationError: ``value`` can't be pickled.
            MessageTooLargeError: it has more than a megabyte; scatter it, and put the future in.
        """
        packed, limit = self._packed(value), seconds(timeout)
        return self._enter(lambda blocking: self._put(packed, blocking, limit))

    async def _put(self, packed: dict[str, Any], blocking: bool, timeout: float | None) -> None:
        if not await self._ask("queue_put", blocking, timeout=timeout, maxsize=self.maxsize, **packed):
            raise TimeoutError(f"{self.name} was full for {timeout:g} s")

    def get(self, timeout: float | None = None, batch: bool | int = False) -> Any:
        """Take the first item out; waits while there is none.

        Args:
            batch: True for a list of all that is there, without waiting; a number for a list of so many.

        Raises:
            TimeoutError: there was not enough for ``timeout`` seconds.
        """
        limit = seconds(timeout)
        return self._enter(lambda blocking: self._get(blocking, limit, batch))

    async def _get(self, blocking: bool, timeout: float | None, batch: bool | int) -> Any:
        count = int(batch) if batch is not True else 0
        about: dict[str, Any] = {"most": 0, "least": 0} if batch is True else {"most": count or 1, "least": count or 1}
        items = await self._ask("queue_take", blocking, timeout=timeout, **about)
        if items is None:
            raise TimeoutError(f"{self.name} had too few items for {timeout:g} s")
        values = [self._opened(item) for item in items]
        return values if batch is not False else values[0]

    def qsize(self) -> Any:
        """How many items it has."""
        return self._enter(lambda blocking: self._question("queue_size", blocking))

    def close(self) -> Any:
        """Remove it with all that is in it; who waits for it gets an error."""
        return self._enter(lambda blocking: self._ask("queue_close", blocking))

    def __reduce__(self) -> tuple[Any, ...]:
        return Queue, (self.name, None, self.maxsize)


class Variable(_Holding):
    """A value that clients and tasks share: a future, or data that is small.

    A future in it is kept until the variable is set to something else or deleted.
    """

    def set(self, value: Any) -> Any:
        """Set it; who waits for a value goes on. For errors see `Queue.put`."""
        packed = self._packed(value)
        return self._enter(lambda blocking: self._ask("variable_set", blocking, **packed))

    def get(self, timeout: float | None = None) -> Any:
        """Its value; waits until it has one.

        Raises:
            TimeoutError: it had none for ``timeout`` seconds.
        """
        limit = seconds(timeout)
        return self._enter(lambda blocking: self._get(blocking, limit))

    async def _get(self, blocking: bool, timeout: float | None) -> Any:
        data = await self._ask("variable_get", blocking, timeout=timeout)
        if data is None:
            raise TimeoutError(f"{self.name} was not set for {timeout:g} s")
        return self._opened(data)

    def delete(self) -> Any:
        """Have it unset, and let go of what it was set to."""
        return self._enter(lambda blocking: self._ask("variable_delete", blocking))

    def __reduce__(self) -> tuple[Any, ...]:
        return Variable, (self.name,)
