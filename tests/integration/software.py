"""Tasks that say what software they run in; without imports that an environment under test may lack."""

from __future__ import annotations

import importlib
import os
import sys


def greet() -> tuple[str, str]:
    """The version of a package that is another one in each environment, and where the environment is."""
    return importlib.import_module("greeting").version, sys.prefix


def wait_for(path: str) -> int:
    """Runs until the file is there; gives its process."""
    while not os.path.exists(path):
        pass
    return os.getpid()
