"""An operator's console in the scheduler's process: the one place here that opens and runs what users sent.

It is imported only where the scheduler was started with ``--allow-run-on-scheduler``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from futurebroker.exceptions import FuturebrokerError
from futurebroker.kernels import Carrier, Kernel
from futurebroker.protocol.messages import RanOnScheduler, RunOnScheduler
from futurebroker.protocol.serialize import dump_failure, dump_frames, layout, loads, loads_writable
from futurebroker.scheduler import observe
from futurebroker.scheduler.state import SchedulerState

#: seconds the scheduler has to answer a console
LOOK_TIMEOUT = 30.0

logger = logging.getLogger("futurebroker.scheduler")


class SchedulerView:
    """The scheduler as consoles and plugins see it: read-only, and built anew at each look."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state
        #: where the state may be read, once a console on another thread may ask
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def serve_threads(self) -> None:
        """From now on other threads ask too; called on the scheduler's own."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def _look(self, look: Callable[[SchedulerState], Any]) -> Any:
        """What ``look`` sees between two events, whatever thread asks."""
        if self._loop is None or threading.get_ident() == self._thread:
            return look(self._state)

        async def seen() -> Any:
            return look(self._state)

        return asyncio.run_coroutine_threadsafe(seen(), self._loop).result(LOOK_TIMEOUT)

    @property
    def processing(self) -> dict[str, list[str]]:
        """By worker id, the keys of the tasks it was sent and has not reported back."""
        return self._look(lambda state: observe.processing(state, None))  # type: ignore[no-any-return]

    @property
    def tasks(self) -> dict[str, str]:
        """By key, the task's state."""
        return self._look(_task_states)  # type: ignore[no-any-return]

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        """By worker id, what is known of it."""
        return self._look(_workers)  # type: ignore[no-any-return]

    @property
    def clients(self) -> dict[str, Any]:
        """By client id, the program it is in."""
        return self._look(_clients)  # type: ignore[no-any-return]

    @property
    def who_has(self) -> dict[str, list[str]]:
        """By key, the ids of the workers that hold its result."""
        return self._look(lambda state: observe.who_has(state, None))  # type: ignore[no-any-return]

    @property
    def has_what(self) -> dict[str, list[str]]:
        """By worker id, the keys of the results it holds."""
        return self._look(lambda state: observe.has_what(state, None))  # type: ignore[no-any-return]

    def info(self) -> dict[str, Any]:
        """What `Client.scheduler_info` tells."""
        return self._look(lambda state: observe.scheduler_info(state, None))  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<scheduler: {len(self._state.workers)} workers, {len(self._state.tasks)} tasks>"


def _task_states(state: SchedulerState) -> dict[str, str]:
    return {key: task.state.value for key, task in state.tasks.items()}


def _workers(state: SchedulerState) -> dict[str, dict[str, Any]]:
    return {worker.worker_id: observe.worker_info(worker) for worker in state.workers.values()}


def _clients(state: SchedulerState) -> dict[str, Any]:
    return {client.client_id: dict(client.info) for client in state.clients.values()}


class Console:
    """See the top of this file."""

    def __init__(self, state: SchedulerState) -> None:
        self.view = SchedulerView(state)
        self.plugins: dict[str, Any] = {}
        self._kernel: Kernel | None = None
        self._bridges: dict[str, Carrier] = {}

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

    def open_kernel(self, channel: str, send: Callable[[list[bytes]], None]) -> dict[str, Any]:
        """Start the kernel, if it isn't there, and a way to it; what its client must know.

        Raises:
            FuturebrokerError: it can't be started here.
        """
        loop = asyncio.get_running_loop()
        if self._kernel is None:
            if threading.current_thread() is not threading.main_thread():
                raise FuturebrokerError("a scheduler inside the program (processes=False) can't have a kernel")
            self.view.serve_threads()
            self._kernel = Kernel({"scheduler": self.view})
        self._bridges[channel] = self._kernel.bridge(channel, lambda frames: _soon(loop, send, frames))
        return {"key": self._kernel.key}

    def feed(self, channel: str, frames: list[bytes]) -> None:
        """Frames for the kernel."""
        bridge = self._bridges.get(channel)
        if bridge is not None:
            bridge.feed(frames)

    def close(self) -> None:
        """Close the plugins, the last first, and the way to the kernel."""
        if self._kernel is not None:
            self._kernel.close()
        for name in reversed(list(self.plugins)):
            _tell(name, self.plugins.pop(name), "close")


def _soon(loop: asyncio.AbstractEventLoop, send: Callable[[list[bytes]], None], frames: list[bytes]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(send, frames)


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
