"""Starting programs and reading what they print, for the tests that run real ones."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUTUREBROKER = [sys.executable, "-m", "futurebroker"]
TIMEOUT = 60


def environment(**variables: str) -> dict[str, str]:
    """This environment, in which this checkout is found, with some variables more."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}


def run(
    command: list[str], folder: Path, text: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """What a program that ends by itself said and exited with."""
    return subprocess.run(
        command, cwd=folder, env=environment(**variables), input=text, capture_output=True, text=True, timeout=TIMEOUT
    )


@contextlib.contextmanager
def running(command: list[str], folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A program that serves, in a session of its own so that a signal to its group is a Ctrl-C; killed at the end."""
    with subprocess.Popen(
        command, cwd=folder, env=environment(**variables), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        try:
            yield program
        finally:
            program.kill()


def lines_until(program: subprocess.Popen[str], word: str) -> list[str]:
    """What it prints up to the line with ``word``; an error with all it said if it ends before."""
    assert program.stdout is not None
    assert program.stderr is not None
    lines: list[str] = []
    for line in program.stdout:
        lines.append(line.rstrip())
        if word in line:
            return lines
    raise AssertionError(f"{word!r} is not in {lines}; {program.stderr.read()}")
