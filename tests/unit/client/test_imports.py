"""What waits for an import must not get in its way."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

import pytest

from futurebroker.client.imports import when_imported


class _Seen(MetaPathFinder):
    """Finds nothing, and tells when somebody looks for a module, whose lock that one has then."""

    def __init__(self, module: str, event: threading.Event) -> None:
        self._module, self._event = module, event

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname == self._module:
            self._event.set()


def test_a_package_and_its_part_are_imported_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread begins with the package, which imports the part; another has begun with the part: both must end."""
    begun, looked, called = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "_test_gates", (begun, looked), raising=False)
    package = tmp_path / "watched_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import sys\n"
        "begun, looked = sys._test_gates\n"
        "begun.set()\n"
        "assert looked.wait(30)\n"
        "import watched_package.part\n"
    )
    (package / "part.py").write_text("VALUE = 1\n")
    when_imported("watched_package.part", called.set)
    seen = _Seen("watched_package.part", looked)
    sys.meta_path.insert(0, seen)
    first = threading.Thread(target=importlib.import_module, args=("watched_package",), daemon=True)
    second = threading.Thread(target=importlib.import_module, args=("watched_package.part",), daemon=True)
    try:
        first.start()
        assert begun.wait(30)
        second.start()
        first.join(30)
        second.join(30)
        assert not first.is_alive()
        assert not second.is_alive()
        assert called.is_set()
    finally:
        sys.meta_path.remove(seen)
        for name in [name for name in sys.modules if name.startswith("watched_package")]:
            del sys.modules[name]
