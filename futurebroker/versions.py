"""The versions of Python and of packages, as client, scheduler and executors tell them to each other."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata

#: packages whose versions matter for what is pickled on one side and opened on the other
PACKAGES = ("futurebroker", "cloudpickle", "msgspec", "tblib", "numpy", "pandas", "dask")


def versions(packages: Iterable[str] = ()) -> dict[str, str | None]:
    """Of Python, of `PACKAGES` and of ``packages``; None for what isn't installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*PACKAGES, *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
