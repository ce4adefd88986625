"""Makes clients dask's default scheduler and known to joblib, without importing either: that is waited for.

The last client that was made with ``set_as_default`` and is open is the default; when none is left, what the program
had set before is again. Where dask is imported later, it is told then.

What a program has imported of dask its tasks will need: executors import it as well, as soon as the program has, and
not when the first task asks for it. With pandas and PyArrow that takes longer than many a computation.
"""

from __future__ import annotations

import sys
import weakref
from functools import partial
from importlib import import_module
from typing import Any, Final

from futurebroker.client.imports import when_imported

#: the module of dask that holds its settings
_CONFIG: Final = "dask.config"
_JOBLIB: Final = "joblib.parallel"
#: name of our backend there, and the module it is in
BACKEND: Final = "futurebroker"
_BACKEND_HOME: Final = "futurebroker.client.joblib_backend"
#: what executors import once the program has
_AHEAD: Final = ("dask.array", "dask.dataframe")
_SCHEDULER, _SHUFFLE = "scheduler", "dataframe.shuffle.method"
_MISSING: Final = object()

#: open clients, the last is the default
_clients: list[weakref.ref[Any]] = []
#: what the program had set before the first of them
_before: dict[str, Any] = {}


def become(client: Any) -> None:
    """Have dask compute by ``client`` unless told otherwise."""
    _clients.append(weakref.ref(client))
    when_imported(_CONFIG, _apply)
    when_imported(_JOBLIB, _register)
    for module in _AHEAD:
        when_imported(module, partial(_import_ahead, module))


def step_down(client: Any) -> None:
    """``client`` is closed: the one before it is dask's default again."""
    _clients[:] = [one for one in _clients if one() is not None and one() is not client]
    if _CONFIG in sys.modules:
        _apply()


def serve_tasks() -> None:
    """In an executor: have dask compute by the client of the task that asks."""
    become(_TASKS)


def _import_ahead(module: str) -> None:
    """Have the executors of the default client import what this program did."""
    client = next((one() for one in reversed(_clients) if one() is not None), None)
    if client is not None and client is not _TASKS:
        client.import_ahead([module])


def _register() -> None:
    """Tell joblib where the backend is; it loads it when somebody chooses it."""
    sys.modules[_JOBLIB].EXTERNAL_BACKENDS[BACKEND] = lambda: import_module(_BACKEND_HOME).register()


def _apply() -> None:
    config = sys.modules[_CONFIG]
    client = next((one() for one in reversed(_clients) if one() is not None), None)
    if client is not None:
        if not _before:
            _before.update({name: config.get(name, _MISSING) for name in (_SCHEDULER, _SHUFFLE)})
        config.set({_SCHEDULER: client.get})
        if config.get(_SHUFFLE, None) is None:
            # Else dask would shuffle by files on the disk of one host.
            config.set({_SHUFFLE: "tasks"})
    elif _before:
        for name, value in _before.items():
            config.set({name: None if value is _MISSING else value})
        _before.clear()


class _TaskScheduler:
    """What dask finds as its scheduler in tasks."""

    def get(self, *arguments: Any, **keywords: Any) -> Any:
        """See `Client.get`."""
        return self._client().get(*arguments, **keywords)

    def persist(self, *arguments: Any, **keywords: Any) -> Any:
        """See `Client.persist`."""
        return self._client().persist(*arguments, **keywords)

    def _client(self) -> Any:
        return import_module("futurebroker.client.inside").get_client()


_TASKS = _TaskScheduler()
