"""The questions a client can ask about the cluster, all answered by the scheduler at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from futurebroker.client.calls import worker_names
from futurebroker.client.core import ClientCore
from futurebroker.client.futures import Future
from futurebroker.types import Key

#: futures or keys, one or many
Keyed: TypeAlias = Future[Any] | Key | Iterable[Future[Any] | Key] | Mapping[Any, Future[Any] | Key]


class Inquiries(ClientCore):
    """Each method returns its answer, or an awaitable with an asynchronous client."""

    def who_has(self, futures: Keyed | None = None) -> Any:
        """By key, the ids of the workers that hold its result; ``scheduler`` for what the scheduler keeps itself."""
        return self._ask("who_has", keys_of(futures))

    def has_what(self, workers: str | Iterable[str] | None = None) -> Any:
        """By worker id, the keys of the results it holds."""
        return self._ask("has_what", _some(workers))

    def nbytes(self, futures: Keyed | None = None) -> Any:
        """By key, the bytes of its result."""
        return self._ask("nbytes", keys_of(futures))

    def nthreads(self, workers: str | Iterable[str] | None = None) -> Any:
        """By worker id, how many tasks it runs at a time."""
        return self._ask("nthreads", _some(workers))

    #: the name of `nthreads` in older programs
    ncores = nthreads

    def processing(self, workers: str | Iterable[str] | None = None) -> Any:
        """By worker id, the keys of the tasks it was sent and has not reported back."""
        return self._ask("processing", _some(workers))

    def scheduler_info(self) -> Any:
        """The workers with what they report of themselves, and counts of clients, tasks and events."""
        return self._ask("scheduler_info")

    def why(self, key: Key | Future[Any]) -> Any:
        """Where a task stands and what it waits for, in a sentence; for a task that doesn't run."""
        return self._ask("why", key.key if isinstance(key, Future) else key)

    def wait_for_workers(self, n_workers: int = 1, timeout: float | None = None) -> Any:
        """Wait until at least ``n_workers`` are connected; TimeoutError after ``timeout`` seconds."""
        return self._ask("wait_for_workers", n_workers, timeout)


def keys_of(futures: Keyed | None) -> list[Key] | None:
    """The keys behind futures or keys; None stays None and means all."""
    if futures is None:
        return None
    if isinstance(futures, (str, Future)):
        futures = (futures,)
    elif isinstance(futures, Mapping):
        futures = futures.values()
    return [thing.key if isinstance(thing, Future) else thing for thing in futures]


def _some(workers: str | Iterable[str] | None) -> list[str] | None:
    return None if workers is None else list(worker_names(workers))
