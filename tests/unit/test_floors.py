"""The floors of the tree and the names of its folders, checked as part of every test run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.api import read_configuration
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]
#: Folders at the top that are packages of futurebroker by a symbolic link.
LINKED = ("broker_adapters", "web", "migrations")


def imports_of(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def our_files() -> Iterator[Path]:
    for folder in ("futurebroker", *LINKED, "tests", "bench"):
        yield from (ROOT / folder).rglob("*.py")
    yield ROOT / "setup.py"


def test_every_file_imports_only_from_the_floors_below(capsys: pytest.CaptureFixture[str]) -> None:
    """A cycle between floors is cheap to forbid and expensive to remove."""
    assert len(read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]) >= 4
    failed = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert not failed, capsys.readouterr().out


def test_linked_folders_are_imported_by_their_full_names_only() -> None:
    """`import web` works in a checkout and fails once installed; two names would also be two modules."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in our_files()
        for name in imports_of(path)
        if name.startswith(".") or name.partition(".")[0] in LINKED
    ]
    assert wrong == []


def test_linked_folders_are_relative_links() -> None:
    """A copy of the folder would drift, and an absolute link would work on one machine only."""
    for name in LINKED:
        if (ROOT / name).exists():
            assert (ROOT / "futurebroker" / name).readlink() == Path("..") / name


def test_the_public_names_are_the_same_for_python_and_type_checkers() -> None:
    """The stub is written by hand, so it can fall behind."""
    stub = (ROOT / "futurebroker" / "__init__.pyi").read_text()
    declared = {*re.findall(r" as (\w+)$", stub, re.MULTILINE), "__version__"}
    package = ast.parse((ROOT / "futurebroker" / "__init__.py").read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in package.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert declared == set(values["__all__"]) == {*values["_HOMES"], "__version__"}
    assert f'version = "{values["__version__"]}"' in (ROOT / "pyproject.toml").read_text()


def test_importing_the_package_loads_none_of_its_parts() -> None:
    """`import futurebroker` stands in every task module; Flask, Plotly and the broker must wait until they are used."""
    code = "import futurebroker, sys; print(*(name for name in sys.modules if name.partition('.')[0] in sys.argv[1:]))"
    watched = ["futurebroker", "flask", "plotly", "sqlalchemy", "kombu", "amqp", "pandas", "numpy", "asyncio", "click"]
    loaded = subprocess.run(
        [sys.executable, "-c", code, *watched], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert loaded.stdout.split() == ["futurebroker"]
