"""What plugins and callbacks leave in an executor: it is there until it is taken away, or the executor ends.

The functions here run in executors, as calls out of line with tasks; a client sends them by name.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from futurebroker.inside import Place, current_task
from futurebroker.worker.context import get_worker

logger = logging.getLogger("futurebroker.worker")

_lock = threading.Lock()
#: by executor, what calls something while no task runs in it; not of those that share their process
_alone: dict[str, Callable[[Callable[[], object]], None]] = {}
#: by executor and name; with ``processes=False`` there are several executors in a process
_plugins: dict[tuple[str, str], Any] = {}
#: by worker, the folder for uploaded files; it goes with the worker's store
_folders: dict[str, Path] = {}
_own_stores: dict[str, Path] = {}


def begin(place: Place, store: str, owns_process: bool, alone: Callable[[Callable[[], object]], None]) -> None:
    """An executor of this worker begins; for ``alone`` see `Seats.alone`."""
    if owns_process and place.host is not None:
        _alone[place.host.address] = alone
    _folders[place.id] = Path(store) / "files"
    if owns_process:
        _own_stores[place.id] = Path(store)


def own_store(worker_id: str) -> Path | None:
    """The folder of this worker's stored values, if this process is an executor of its own."""
    return _own_stores.get(worker_id)


def set_up(name: str, plugin: Any) -> None:
    """Make ``plugin`` this executor's, and call its ``setup``; a former one of that name is torn down first."""
    worker = get_worker()
    place = (_executor(), name)
    with _lock:
        if place in _plugins and _plugins[place] is not plugin:
            _tear_down(place, worker)
        _plugins[place] = plugin
    if hasattr(plugin, "setup"):
        plugin.setup(worker=worker)


def tear_down(name: str) -> bool:
    """Take the plugin ``name`` away; whether there was one."""
    worker = get_worker()
    with _lock:
        return _tear_down((_executor(), name), worker)


def _executor() -> str:
    """What tells this executor from others."""
    host = current_task.get()[0].host
    return host.address if host is not None else ""


def _tear_down(place: tuple[str, str], worker: Any) -> bool:
    plugin = _plugins.pop(place, None)
    if plugin is None:
        return False
    if hasattr(plugin, "teardown"):
        plugin.teardown(worker=worker)
    return True


def end(place: Place) -> None:
    """The executor ends orderly: tear down its plugins, those that came last first."""
    current_task.set((place, "", None, 0))
    _alone.pop(_executor(), None)
    with _lock:
        for name in reversed([name for name in _plugins if name[0] == _executor()]):
            try:
                _tear_down(name, get_worker())
            except Exception:
                logger.exception("the plugin %s could not be torn down", name[1])
    folder = str(_folders.get(place.id, ""))
    sys.path[:] = [entry for entry in sys.path if not (folder and entry.startswith(folder))]


def call_back(function: Any) -> Any:
    """Call what `Client.register_worker_callbacks` was given, with the worker if it takes one."""
    code = getattr(function, "__code__", None)
    if code is not None and "dask_worker" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return function(dask_worker=get_worker())
    return function()


def import_ahead(modules: list[str]) -> None:
    """Import these modules before the next task begins; a program whose threads we are has what it wants.

    Not beside tasks: of two threads that import the parts of a package that refer to one another, Python gives one
    a part that isn't complete.
    """
    alone = _alone.get(_executor())
    if alone is not None:
        threading.Thread(target=alone, args=(partial(_import, modules),), name="imports", daemon=True).start()


def _import(modules: list[str]) -> None:
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def receive_file(name: str, data: bytes, load: bool) -> str:
    """Put a file of ``Client.upload_file`` where imports find it first, and import it anew if it is code.

    Returns where it lies. ``.py`` files are imported as modules; ``.egg``, ``.zip`` and ``.pyz`` become part of the
    import path as they are.
    """
    folder = _folders[get_worker().id]
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / name
    temporary = folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
    temporary.write_bytes(data)
    temporary.replace(target)
    entry = str(target) if target.suffix in (".egg", ".zip", ".pyz") else str(folder)
    with contextlib.suppress(ValueError):
        sys.path.remove(entry)
    sys.path.insert(0, entry)
    sys.path_importer_cache.pop(entry, None)
    importlib.invalidate_caches()
    if not load:
        return str(target)
    if target.suffix == ".py":
        sys.modules.pop(target.stem, None)
        # A second version of the same length within a second would be taken from the bytecode of the first.
        for stale in (folder / "__pycache__").glob(f"{target.stem}.*.pyc"):
            stale.unlink(missing_ok=True)
        importlib.import_module(target.stem)
    elif entry != str(folder):
        _forget_modules_of(entry)
    return str(target)


def _forget_modules_of(archive: str) -> None:
    """What was imported from a former version is imported anew when it is next asked for."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(archive + os.sep):
            del sys.modules[name]
