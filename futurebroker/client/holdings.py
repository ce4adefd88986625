"""What a client can ask and do about where results lie, and what they take."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Iterable, Mapping
from typing import Any

from futurebroker.amounts import show_bytes
from futurebroker.client.calls import worker_names
from futurebroker.client.core import ClientCore
from futurebroker.client.futures import settle
from futurebroker.client.gathering import only_futures_in
from futurebroker.client.inquiries import Keyed, keys_of
from futurebroker.client.waiters import run_blocking
from futurebroker.exceptions import FuturebrokerError

#: seconds that what a repr shows is good for, and that it waits for the scheduler at most
GLANCE = 2.0
GLANCE_TIMEOUT = 0.3


class Holdings(ClientCore):
    """Each method returns its answer, or an awaitable with an asynchronous client."""

    _glance: tuple[float, Mapping[str, Any]] = (0.0, {})

    def memory(self) -> Any:
        """What takes memory, by worker and by kind of task, in bytes.

        ``workers`` has for each worker its ``limit``, what it and its executors take (``process``), the results in
        memory (``managed``) and on disk (``spilled``), what is neither (``unmanaged``), and the events of its memory;
        ``kinds`` has for each kind of task the bytes of its results, and those of them on disk.
        """

        async def work(blocking: bool) -> Any:
            answer = await self._connection.ask("memory", None, blocking)
            self._glance = (time.monotonic(), answer)
            return answer

        return self._enter(work)

    def replicate(self, futures: Any, n: int | None = None, workers: str | Iterable[str] | None = None) -> Any:
        """Have ``n`` workers hold each of these results, by default all; returns when they do.

        Args:
            workers: names, ids or host names of the workers that may be given copies.

        Raises:
            FuturebrokerError: some copies could not be made.
        """
        about = {"n": n, "workers": list(worker_names(workers))}
        return self._enter(lambda blocking: self._rearrange("replicate", futures, about, blocking))

    def rebalance(self, futures: Any = None, workers: str | Iterable[str] | None = None) -> Any:
        """Move results from workers that hold many bytes to those that hold few; returns when that is done.

        Args:
            futures: which results may be moved; by default all that exactly one worker holds.
            workers: names, ids or host names of the workers among which they are moved.

        Raises:
            FuturebrokerError: some of them could not be moved; they stay where they are.
        """
        about = {"workers": list(worker_names(workers))}
        return self._enter(lambda blocking: self._rearrange("rebalance", futures, about, blocking))

    async def _rearrange(self, topic: str, futures: Keyed | Any, about: dict[str, Any], blocking: bool) -> None:
        keys = None
        if futures is not None:
            found = list(only_futures_in(futures))
            await settle([future._state for future in found], blocking)
            keys = keys_of(found)
        answer = await self._connection.ask(topic, {"keys": keys, **about}, blocking)
        if answer["failed"]:
            raise FuturebrokerError(f"{topic}: {answer['failed']} copies could not be made; the others were")

    # -- in view -----------------------------------------------------------------------------------------------------

    def _seen(self) -> Mapping[str, Any]:
        """What `memory` says, or said last: a repr must neither fail nor hold anybody up."""
        since, seen = self._glance
        if self._live is None or self.status != "running" or time.monotonic() - since < GLANCE:
            return seen
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            try:
                seen = run_blocking(self._connection.ask("memory", None, True, GLANCE_TIMEOUT))
            except (FuturebrokerError, TimeoutError):
                return seen
            self._glance = (time.monotonic(), seen)
        return seen

    def _at_a_glance(self) -> str:
        workers = list(self._seen().get("workers", {}).values())
        if not workers:
            return super()._at_a_glance()
        managed, spilled = _sum(workers, "managed"), _sum(workers, "spilled")
        limit = f" of {show_bytes(_sum(workers, 'limit'))}" if _sum(workers, "limit") else ""
        on_disk = f" (results {show_bytes(managed)}, on disk {show_bytes(spilled)})" if managed or spilled else ""
        return f" workers={len(workers)} memory={show_bytes(_sum(workers, 'process'))}{limit}{on_disk}"

    def _more_rows(self) -> str:
        rows = [super()._more_rows()]
        for worker in self._seen().get("workers", {}).values():
            limit = f" of {show_bytes(worker['limit'])}" if worker["limit"] else ""
            figures = (
                f"{show_bytes(worker['process'] or 0)}{limit}; results {show_bytes(worker['managed'] or 0)}, "
                f"on disk {show_bytes(worker['spilled'] or 0)}, unmanaged {show_bytes(worker['unmanaged'] or 0)}"
            )
            rows.append(f"<tr><th>memory of {html.escape(str(worker['name']))}</th><td>{figures}</td></tr>")
        return "".join(rows)


def _sum(workers: list[Any], name: str) -> int:
    return sum(worker[name] or 0 for worker in workers)
