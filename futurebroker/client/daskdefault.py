"""Makes clients dask's default scheduler, without importing dask: that is waited for.

The last client that was made with ``set_as_default`` and is open is the default; when none is left, what the program
had set before is again. Where dask is imported later, it is told then.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

#: the module of dask that holds its settings
_CONFIG: Final = "dask.config"
_SCHEDULER, _SHUFFLE = "scheduler", "dataframe.shuffle.method"
_MISSING: Final = object()

#: open clients, the last is the default
_clients: list[weakref.ref[Any]] = []
#: what the program had set before the first of them
_before: dict[str, Any] = {}
_watching = False


def become(client: Any) -> None:
    """Have dask compute by ``client`` unless told otherwise."""
    _clients.append(weakref.ref(client))
    _when_imported(_apply)


def step_down(client: Any) -> None:
    """``client`` is closed: the one before it is dask's default again."""
    _clients[:] = [one for one in _clients if one() is not None and one() is not client]
    if _CONFIG in sys.modules:
        _apply()


def serve_tasks() -> None:
    """In an executor: have dask compute by the client of the task that asks."""
    become(_TASKS)


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


# -- waiting for dask ------------------------------------------------------------------------------------------------


def _when_imported(call: Callable[[], None]) -> None:
    global _watching
    if _CONFIG in sys.modules and getattr(sys.modules[_CONFIG], "set", None) is not None:
        call()
    elif not _watching:
        _watching = True
        sys.meta_path.insert(0, _Watcher(call))


class _Watcher(MetaPathFinder):
    """Finds nothing itself: it sees that dask's settings are imported, and is told when that is done."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        global _watching
        if fullname != _CONFIG:
            return None
        sys.meta_path.remove(self)
        _watching = False
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenCall(spec.loader, self._call)
        return spec


class _ThenCall(Loader):
    """Loads as another does, and then calls."""

    def __init__(self, loader: Loader, call: Callable[[], None]) -> None:
        self._loader = loader
        self._call = call

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `importlib.abc.Loader`."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        self._loader.exec_module(module)
        self._call()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
