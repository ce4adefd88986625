"""The wheel, as a user installs it: one top-level name, everything in it, and a CLI that runs from anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import futurebroker

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("broker_adapters", "web", "migrations")

pytestmark = pytest.mark.timeout(180)


def run(command: Sequence[str | Path], folder: Path) -> str:
    """The output of a command that must succeed, started in a folder that is not the checkout."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built as a release is: from the source distribution, and so from what that holds."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout(folder / "source")], folder)
    (built,) = folder.glob("*.whl")
    return built


def checkout(folder: Path) -> Path:
    """A copy of what makes the package, so that the build leaves nothing in the checkout."""
    folder.mkdir()
    for pattern in ("*.toml", "*.py", "*.in", "*.md", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, folder)
    for name in ("futurebroker", *LINKED):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel installed; what it depends on is lent by the environment of the tests.

    A path file lends it, so no network is needed; such a file adds packages without running their own path files, so
    an editable install of this checkout stays out.
    """
    folder = tmp_path_factory.mktemp("clean")
    run([sys.executable, "-m", "venv", folder], folder)
    python = folder / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel], folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    lent = [path for path in sys.path if path.endswith("-packages")]
    (packages / "lent.pth").write_text("\n".join(lent) + "\n")
    return folder


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    """A top-level `web` or `tests` in site-packages would break somebody else's imports."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    (information,) = {name.partition("/")[0] for name in names} - {"futurebroker"}
    assert information == f"futurebroker-{futurebroker.__version__}.dist-info"
    assert f"{information}/licenses/LICENSE" in names


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """What find_packages or package data forget works in the checkout and fails at the user's."""
    with zipfile.ZipFile(wheel) as archive:
        built = {name for name in archive.namelist() if name.startswith("futurebroker/")}
    package = ROOT / "futurebroker"
    found = {
        (Path(folder) / name).relative_to(ROOT).as_posix()
        for folder, _, names in os.walk(package, followlinks=True)
        for name in names
    }
    wanted = {name for name in found if "/__pycache__/" not in name}
    assert built == wanted


def test_the_installed_package_runs_from_another_folder(environment: Path, tmp_path: Path) -> None:
    """The checkout must not be needed: neither its folder nor its links."""
    python = environment / "bin" / "python"
    where = run([python, "-c", "import futurebroker.broker_adapters as a; print(a.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(environment)
    version = run([environment / "bin" / "futurebroker", "--version"], tmp_path)
    assert futurebroker.__version__ in version
    for command in ([environment / "bin" / "futurebroker"], [python, "-m", "futurebroker"]):
        assert "scheduler" in run([*command, "--help"], tmp_path)
    assert os.listdir(tmp_path) == []
