"""`Lock`, `Semaphore` and `Event` that all clients and tasks of a cluster share by name."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from futurebroker.client.core import ClientCore
from futurebroker.client.sharing import SharedByName, seconds
from futurebroker.exceptions import LeaseLostError


class _Leased(SharedByName):
    """What `Lock` and `Semaphore` have in common."""

    def __init__(self, max_leases: int, name: str | None, client: ClientCore | None) -> None:
        super().__init__(name, client)
        if isinstance(max_leases, bool) or not isinstance(max_leases, int) or max_leases < 1:
            raise ValueError(f"max_leases= takes 1 or more, got {max_leases!r}")
        self.max_leases = max_leases
        self._leases: deque[str] = deque()

    async def _acquire(self, blocking: bool, timeout: float | None = None) -> bool:
        lease = secrets.token_hex(8)
        got = await self._ask("lease_acquire", blocking, lease, timeout=timeout, max_leases=self.max_leases)
        if got:
            held = self._client._connection.leases.setdefault(self.name, (self.max_leases, {}))[1]
            held[lease] = None
            self._leases.append(lease)
        return bool(got)

    def release(self) -> Any:
        """Give a lease back.

        Raises:
            RuntimeError: this object holds none.
            LeaseLostError: the lease was given to somebody else in the meantime.
        """
        return self._enter(self._release)

    async def _release(self, blocking: bool) -> None:
        try:
            lease = self._leases.popleft()
        except IndexError:
            raise RuntimeError(f"{self!r} is released more often than it was acquired here") from None
        forget_lease(self._client, self.name, lease)
        if not await self._ask("lease_release", blocking, lease):
            raise LeaseLostError(self.name)

    def get_value(self) -> Any:
        """How many leases are held in the whole cluster."""
        return self._enter(self._get_value)

    async def _get_value(self, blocking: bool) -> int:
        return int((await self._question("leases", blocking))["held"])

    def __enter__(self) -> Self:
        if self._client.asynchronous:
            raise TypeError("with an asynchronous client it is entered with: async with")
        self._enter(self._acquire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self._acquire(False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._release(False)


class Semaphore(_Leased):
    """At most ``max_leases`` holders at a time, in the whole cluster, first come first served.

    A lease ends by `release`, or with the client that holds it: at once when that is closed or its executor ends, after
    the time that its futures are kept for when it is out of reach. So there are never more leases than there may be,
    but for a client that lives and was out of reach for as long: it learns of that from `release`. It survives a
    restart of the scheduler. In dask.distributed leases time out after 30 seconds without a sign of life.

    Args:
        max_leases: the same for all that use this name.

    Raises:
        FuturebrokerError: by any method, if others use the name with another ``max_leases``.
    """

    def __init__(self, max_leases: int = 1, name: str | None = None, client: ClientCore | None = None) -> None:
        super().__init__(max_leases, name, client)

    def acquire(self, timeout: float | None = None) -> Any:
        """Take a lease; False if none was free within ``timeout`` seconds."""
        limit = seconds(timeout)
        return self._enter(lambda blocking: self._acquire(blocking, limit))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_leases, self.name)


class Lock(_Leased):
    """At most one holder at a time in the whole cluster; see `Semaphore`."""

    def __init__(self, name: str | None = None, client: ClientCore | None = None) -> None:
        super().__init__(1, name, client)

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Any:
        """Take the lock; False if it wasn't free, within ``timeout`` seconds or without waiting at all."""
        limit = seconds(timeout) if blocking else 0.0
        return self._enter(lambda by_blocking: self._acquire(by_blocking, limit))

    def locked(self) -> Any:
        """Whether somebody has it."""
        return self._enter(self._locked)

    async def _locked(self, blocking: bool) -> bool:
        return await self._get_value(blocking) > 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Lock, (self.name,)


class MultiLock(SharedByName):
    """Several `Lock` at a time, without a deadlock: who asks first gets first whatever both want.

    A name is that of a `Lock`, so that either keeps the other out. What is said of leases in `Semaphore` holds.

    Args:
        names: of the locks, at most 100.

    Raises:
        FuturebrokerError: by `acquire`, if a name is that of a `Semaphore` with more leases.
    """

    def __init__(self, names: Iterable[str] = (), client: ClientCore | None = None) -> None:
        self.names = [names] if isinstance(names, str) else list(names)
        if not self.names or not all(isinstance(name, str) and name for name in self.names):
            raise ValueError(f"names= takes texts, at least one, got {names!r}")
        super().__init__(self.names[0], client)
        self._lease = ""
        self._held: list[str] = []

    def acquire(self, blocking: bool = True, timeout: float | None = None, num_locks: int | None = None) -> Any:
        """Take all locks, or any ``num_locks`` of them; False if they weren't free within ``timeout`` seconds.

        Raises:
            RuntimeError: this object has them already.
            ValueError: a timeout without ``blocking``, or more locks than there are names.
        """
        if self._lease:
            raise RuntimeError(f"{self!r} is acquired here already")
        if not blocking and timeout is not None:
            raise ValueError("timeout= means something only with blocking=True")
        count = len(set(self.names))
        least = count if num_locks is None else num_locks
        if isinstance(least, bool) or not isinstance(least, int) or not 1 <= least <= count:
            raise ValueError(f"num_locks= takes 1 to {count}, got {num_locks!r}")
        limit = seconds(timeout) if blocking else 0.0
        return self._enter(lambda by_blocking: self._acquire(by_blocking, limit, least))

    async def _acquire(self, blocking: bool, timeout: float | None = None, least: int = 0) -> bool:
        lease = secrets.token_hex(8)
        least = least or len(set(self.names))
        held = await self._ask("lease_acquire_many", blocking, lease, timeout=timeout, of=self.names, least=least)
        if not held:
            return False
        self._lease, self._held = lease, held
        for name in held:
            self._client._connection.leases.setdefault(name, (1, {}))[1][lease] = None
        return True

    def release(self) -> Any:
        """Give them back.

        Raises:
            RuntimeError: this object doesn't have them.
            LeaseLostError: one was given to somebody else in the meantime; the others are given back.
        """
        return self._enter(self._release)

    async def _release(self, blocking: bool) -> None:
        if not self._lease:
            raise RuntimeError(f"{self!r} is released more often than it was acquired here")
        lease, held = self._lease, self._held
        self._lease, self._held = "", []
        lost = ""
        for name in held:
            forget_lease(self._client, name, lease)
            if not await self._question("lease_release", blocking, {"name": name, "op": lease}):
                lost = name
        if lost:
            raise LeaseLostError(lost)

    def locked(self) -> bool:
        """Whether this object has them."""
        return bool(self._lease)

    def __enter__(self) -> Self:
        if self._client.asynchronous:
            raise TypeError("with an asynchronous client it is entered with: async with")
        self._enter(self._acquire)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self._acquire(False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._release(False)

    def __repr__(self) -> str:
        return f"<MultiLock: {', '.join(self.names)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return MultiLock, (self.names,)


def forget_lease(client: ClientCore, name: str, lease: str) -> None:
    """The client doesn't hold this any more, and won't tell a new scheduler that it does."""
    leases = client._connection.leases
    if name in leases:
        leases[name][1].pop(lease, None)
        if not leases[name][1]:
            del leases[name]


class Event(SharedByName):
    """A flag that one sets and many wait for, as `threading.Event`."""

    def set(self) -> Any:
        """Set the flag; all that wait go on."""
        return self._enter(lambda blocking: self._ask("event_set", blocking))

    def clear(self) -> Any:
        """Reset the flag."""
        return self._enter(lambda blocking: self._ask("event_clear", blocking))

    def is_set(self) -> Any:
        """Whether the flag is set."""
        return self._enter(lambda blocking: self._question("event_is_set", blocking))

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until the flag is set; False if it wasn't within ``timeout`` seconds."""
        limit = seconds(timeout)
        return self._enter(lambda blocking: self._wait(blocking, limit))

    async def _wait(self, blocking: bool, timeout: float | None) -> bool:
        return bool(await self._ask("event_wait", blocking, timeout=timeout))

    def __reduce__(self) -> tuple[Any, ...]:
        return Event, (self.name,)
