"""Options of calls given apart from the call, so that the function may have keywords of the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from futurebroker.client.calls import Terms, task_options
from futurebroker.client.futures import Future
from futurebroker.client.submitting import Submitter
from futurebroker.types import Key


class Options:
    """What `Client.options` returns: all keywords of its methods go to the function."""

    def __init__(
        self,
        submitter: Submitter,
        *,
        key: str | Sequence[Key] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        resources: dict[str, float] | None = None,
        retries: int = 0,
        priority: int = 0,
        pure: bool = False,
        chunksize: int = 1,
        durable: bool = False,
        keep: float | None = None,
        at_most_once: bool = False,
    ) -> None:
        self._submitter = submitter
        self._options = task_options(
            workers, allow_other_workers, resources, retries, priority, Terms.of(durable, keep, at_most_once, None)
        )
        self._key = key
        self._pure = pure
        self._chunksize = chunksize

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As `Client.submit`."""
        key = self._key
        if key is not None and not isinstance(key, str):
            raise TypeError("a list of keys is for map")
        if key is None and self._options is None and not self._pure:
            return self._submitter.submit(function, args, kwargs)
        return self._submitter.submit_with(function, args, kwargs, self._options, key, self._pure)

    def map(self, function: Callable[..., Any], /, *iterables: Iterable[Any], **kwargs: Any) -> list[Future[Any]]:
        """As `Client.map`."""
        return self._submitter.map(function, iterables, kwargs, self._options, self._key, self._pure, self._chunksize)
