"""What dask.distributed has beside its client to look at what ran: the task stream and metadata of a ``with`` block."""

from __future__ import annotations

from typing import Any, Self

from futurebroker.client.core import ClientCore
from futurebroker.client.insight import Insight, TaskStream


def default_client(client: ClientCore | None = None) -> Any:
    """``client``, or without one the client that `Client.current` gives.

    Raises:
        ValueError: there is none.
    """
    return client if client is not None else ClientCore.current()


def get_task_stream(client: Insight | None = None) -> TaskStream:
    """The ends of the tasks within a ``with`` block; see `Client.get_task_stream`.

    ::

        with get_task_stream() as ts:
            client.gather(client.map(work, data))
        ts.data  # [{"key": ..., "worker": ..., "start": ..., "stop": ..., "nbytes": ..., "type": ..., "status": ...}]

    `performance_report` draws them.
    """
    return TaskStream(default_client(client))


class get_task_metadata:  # noqa: N801 - the name is dask.distributed's, and is called as a function
    """What became of the tasks that ended within a ``with`` block; ``async with`` for an asynchronous client.

    Args:
        client: by default `Client.current`.
    """

    def __init__(self, client: Insight | None = None) -> None:
        self._stream = TaskStream(default_client(client))
        #: by key, ``worker``, ``start``, ``stop``, ``nbytes`` and ``type`` of its last run; None before the block's end
        self.metadata: dict[str, dict[str, Any]] | None = None
        #: by key, the state that it came to: "memory" or "erred"
        self.state: dict[str, str] | None = None

    def _fill(self) -> None:
        self.metadata, self.state = {}, {}
        for end in self._stream.data:
            key, status = end["key"], end["status"]
            self.metadata[key] = {name: value for name, value in end.items() if name not in ("key", "status")}
            self.state[key] = "memory" if status == "finished" else "erred"

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stream.__exit__(*raised)
        self._fill()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._stream.__aexit__(*raised)
        self._fill()
