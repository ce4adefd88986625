"""Tasks that say what software they run in, without imports that an environment under test may lack; and such a one."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import futurebroker

#: what executors import
NEEDED = ("msgspec", "cloudpickle", "tblib", "psutil", "click")


def packed_venv(folder: Path) -> Path:
    """A venv made by Python itself, with our package, what that needs, and version 2 of greeting; packed beside it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    installed, target = Path(sysconfig.get_path("purelib")), folder / "lib" / version / "site-packages"
    for name in NEEDED:
        shutil.copytree(installed / name, target / name)
    shutil.copytree(Path(str(futurebroker.__file__)).parent, target / "futurebroker")
    (target / "greeting").mkdir()
    (target / "greeting" / "__init__.py").write_text("version = '2.0'\n")
    return futurebroker.pack_environment(folder, folder.with_suffix(".zip"))


def greet() -> tuple[str, str]:
    """The version of a package that is another one in each environment, and where the environment is."""
    return importlib.import_module("greeting").version, sys.prefix


def wait_for(path: str) -> int:
    """Runs until the file is there; gives its process."""
    while not os.path.exists(path):
        pass
    return os.getpid()


def has_imported(module: str) -> bool:
    """Whether something in this process did."""
    return module in sys.modules
