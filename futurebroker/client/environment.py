"""The environment that a program runs in, as a fingerprint: which Python, which machine, which packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from functools import cache

from futurebroker import __version__


@cache
def environment() -> dict[str, str]:
    """``python``, ``platform`` and ``futurebroker``, and ``fingerprint``, a digest of them and all installed packages.

    Equal fingerprints mean the same versions of everything. Looked up once in a process; takes some tenths of a second.
    """
    packages = {
        (name.lower().replace("_", "-"), found.version)
        for found in importlib.metadata.distributions()
        if (name := found.metadata["Name"])
    }
    told = {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "futurebroker": __version__,
    }
    lines = [*told.values(), *(f"{name}=={version}" for name, version in sorted(packages))]
    return {**told, "fingerprint": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]}
