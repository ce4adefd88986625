"""An operator's console in the scheduler's process: the one place here that opens and runs what users sent.

It is imported only where the scheduler was started with ``--allow-run-on-scheduler``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from futurebroker.protocol.messages import Failure, RanOnScheduler, RunOnScheduler
from futurebroker.protocol.serialize import dump_failure, dump_frames, layout, loads, loads_writable
from futurebroker.scheduler import observe
from futurebroker.scheduler.state import SchedulerState


class SchedulerView:
    """The scheduler as consoles and plugins see it: read-only, and built anew at each look."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state

    @property
    def processing(self) -> dict[str, list[str]]:
        """By worker id, the keys of the tasks it was sent and has not reported back."""
        return observe.processing(self._state, None)

    @property
    def tasks(self) -> dict[str, str]:
        """By key, the task's state."""
        return {key: task.state.value for key, task in self._state.tasks.items()}

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        """By worker id, what is known of it."""
        return {worker.worker_id: observe.worker_info(worker) for worker in self._state.workers.values()}

    @property
    def clients(self) -> MappingProxyType[str, Any]:
        """By client id, the program it is in."""
        return MappingProxyType({client.client_id: client.info for client in self._state.clients.values()})

    @property
    def who_has(self) -> dict[str, list[str]]:
        """By key, the ids of the workers that hold its result."""
        return observe.who_has(self._state, None)

    @property
    def has_what(self) -> dict[str, list[str]]:
        """By worker id, the keys of the results it holds."""
        return observe.has_what(self._state, None)

    def info(self) -> dict[str, Any]:
        """What `Client.scheduler_info` tells."""
        return observe.scheduler_info(self._state, None)

    def __repr__(self) -> str:
        return f"<scheduler: {len(self._state.workers)} workers, {len(self._state.tasks)} tasks>"


class Console:
    """See the top of this file."""

    def __init__(self, state: SchedulerState) -> None:
        self.view = SchedulerView(state)
        self._plugins: dict[str, Any] = {}

    def run(self, message: RunOnScheduler) -> RanOnScheduler:
        """Call a function on the scheduler's loop, which stands still meanwhile."""
        try:
            function = loads(message.code)
            args, keywords = loads_writable(message.args)
            if "dask_scheduler" in _parameters(function):
                keywords["dask_scheduler"] = self.view
            value = function(*args, **keywords)
            data = b"".join(layout(dump_frames(value, "what the function returned")))
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            return RanOnScheduler(message.number, None, _failure(error))
        return RanOnScheduler(message.number, data)

    def close(self) -> None:
        """End the plugins."""


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _failure(error: BaseException) -> Failure:
    return dump_failure(error)
