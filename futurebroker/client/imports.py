"""Does something once a module has been imported, without importing it: that is left to the program."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_watched: set[str] = set()


def when_imported(module: str, call: Callable[[], None]) -> None:
    """Call ``call()`` now if ``module`` was imported, else when it is; of several calls for one module the first."""
    loaded = sys.modules.get(module)
    if loaded is not None and not getattr(loaded.__spec__, "_initializing", False):
        call()
    elif module not in _watched:
        _watched.add(module)
        sys.meta_path.insert(0, _Watcher(module, call))


class _Watcher(MetaPathFinder):
    """Finds nothing itself: it sees that the module is imported, and is told when that is done."""

    def __init__(self, module: str, call: Callable[[], None]) -> None:
        self._module = module
        self._call = call

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname != self._module:
            return None
        with contextlib.suppress(ValueError):  # another thread imports it, too
            sys.meta_path.remove(self)
        _watched.discard(fullname)
        # Not by `importlib.util.find_spec`: that takes the lock of the package, whose import in another thread may wait
        # for this module's, which we hold.
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
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
