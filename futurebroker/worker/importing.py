"""Where executors find modules beside those installed: folders that a local cluster's program hands down."""

from __future__ import annotations

import json
import logging
import os
from pathlib import PurePath

logger = logging.getLogger("futurebroker.worker")

#: environment variable with a JSON list of folders for the end of the executors' sys.path
PATH_VARIABLE = "FUTUREBROKER_SYS_PATH"


def handed_down_path(python: str = "") -> list[str]:
    """The folders named by `PATH_VARIABLE`; for an environment of its own, those without installed packages."""
    text = os.environ.get(PATH_VARIABLE, "")
    try:
        entries = json.loads(text) if text else []
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        logger.warning("%s isn't a JSON list of folders; ignored", PATH_VARIABLE)
        return []
    return [entry for entry in entries if not _is_installed(entry)] if python else entries


def _is_installed(entry: str) -> bool:
    """Whether the folder belongs to an installation of Python."""
    parts = PurePath(entry).parts
    library = PurePath(os.__file__).parent
    in_library = PurePath(entry) in (library, library / "lib-dynload")
    return in_library or "site-packages" in parts or "dist-packages" in parts or entry.endswith(".zip")
