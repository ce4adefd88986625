"""A file that can't be written for a while: nobody is told what isn't written, and work goes on by itself."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.troubles import endure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_file_that_another_program_has_locked(tmp_path: Path) -> None:
    """A backup, or somebody who looks into it."""
    path = tmp_path / "journal.db"

    @contextlib.contextmanager
    def locked(_scheduler: subprocess.Popen[str]) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    said = endure(tmp_path, f"sqlite:///{path}", locked)
    assert "another process writes to it" in said
    assert "the journal is written again" in said


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """Played by a limit on how long files of the scheduler may be; it is lifted again."""

    @contextlib.contextmanager
    def full(scheduler: subprocess.Popen[str]) -> Iterator[None]:
        soft, hard = resource.prlimit(scheduler.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(scheduler.pid, resource.RLIMIT_FSIZE, (4096, hard))
        yield
        resource.prlimit(scheduler.pid, resource.RLIMIT_FSIZE, (soft, hard))

    said = endure(tmp_path, f"sqlite:///{tmp_path}/journal.db", full)
    assert "the journal can't be written" in said
    assert "the journal is written again" in said


def test_a_file_that_may_only_be_read_for_a_while(tmp_path: Path) -> None:
    """A disk with an error is remounted so; SQLite's own refusal is played by a pragma."""
    mark = tmp_path / "read-only"

    @contextlib.contextmanager
    def read_only(_scheduler: subprocess.Popen[str]) -> Iterator[None]:
        mark.touch()
        yield
        mark.unlink()

    command = [sys.executable, "-m", "tests.integration.readonly_scheduler", str(mark)]
    said = endure(tmp_path, f"sqlite:///{tmp_path}/journal.db", read_only, command=command)
    assert "make the file and its folder writable" in said
    assert "the journal is written again" in said
