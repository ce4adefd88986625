"""An operator's console in the scheduler's process: the one place here that opens and runs what users sent.

It is imported only where the scheduler was started with ``--allow-run-on-scheduler``.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from futurebroker.protocol.messages import RanOnScheduler, RunOnScheduler
from futurebroker.protocol.serialize import dump_failure, dump_frames, layout, loads, loads_writable
from futurebroker.scheduler import observe
from futurebroker.scheduler.state import SchedulerState

logger = logging.getLogger("futurebroker.scheduler")


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
        self.plugins: dict[str, Any] = {}

    def run(self, message: RunOnScheduler) -> RanOnScheduler:
        """Call a function on the scheduler's loop, which stands still meanwhile."""
        token = _here.set(self)
        try:
            function = loads(message.code)
            args, keywords = loads_writable(message.args)
            if "dask_scheduler" in _parameters(function):
                keywords["dask_scheduler"] = self.view
            value = function(*args, **keywords)
            data = b"".join(layout(dump_frames(value, "what the function returned")))
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            return RanOnScheduler(message.number, None, dump_failure(error, "", "the scheduler"))
        finally:
            _here.reset(token)
        return RanOnScheduler(message.number, data)

    def notice(self, what: str, who: str) -> None:
        """Tell the plugins who joined or is gone; one that raises is logged, and goes on."""
        for name in list(self.plugins):
            _tell(name, self.plugins[name], what, self.view, who)

    def close(self) -> None:
        """Close the plugins, the last first."""
        for name in reversed(list(self.plugins)):
            _tell(name, self.plugins.pop(name), "close")


#: the console whose function runs now
_here: ContextVar[Console] = ContextVar("console")


def register(name: str, plugin: Any) -> None:
    """Start ``plugin`` in this scheduler; called by `Client.register_plugin`."""
    console = _here.get()
    if name in console.plugins:
        unregister(name)
    if hasattr(plugin, "start"):
        plugin.start(console.view)
    console.plugins[name] = plugin


def unregister(name: str) -> None:
    """Close a plugin; called by `Client.unregister_scheduler_plugin`."""
    plugins = _here.get().plugins
    if name not in plugins:
        raise ValueError(f"there is no plugin {name!r}; registered are: {', '.join(plugins) or 'none'}")
    plugin = plugins.pop(name)
    if hasattr(plugin, "close"):
        plugin.close()


def _tell(name: str, plugin: Any, method: str, *arguments: Any) -> None:
    call = getattr(plugin, method, None)
    if call is None:
        return
    try:
        call(*arguments)
    except Exception:
        logger.exception("%s of the scheduler's plugin %s failed", method, name)


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
