"""Where executors find modules beside those installed: folders that a local cluster's program hands down."""

from __future__ import annotations

import json
import logging
import os

logger = logging.getLogger("futurebroker.worker")

#: environment variable with a JSON list of folders for the end of the executors' sys.path
PATH_VARIABLE = "FUTUREBROKER_SYS_PATH"


def handed_down_path() -> list[str]:
    """The folders named by `PATH_VARIABLE`."""
    text = os.environ.get(PATH_VARIABLE, "")
    try:
        entries = json.loads(text) if text else []
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        logger.warning("%s isn't a JSON list of folders; ignored", PATH_VARIABLE)
        return []
    return entries
