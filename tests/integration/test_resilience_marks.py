"""A process says what names it, and whoever shares its machine can see whether it has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from futurebroker.processes import has_ended, process_mark

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "from futurebroker.processes import process_mark; print(process_mark(), flush=True); input()"


def test_a_process_has_ended_once_it_is_killed_and_not_before() -> None:
    """Also while nobody has taken note of its end, which may take its parent for ever."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        mark = process.stdout.readline().strip()
        assert not has_ended(mark)
        process.kill()
        assert process.stdout.read() == ""
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(mark)
        process.wait()
        assert has_ended(mark)


def test_another_process_with_the_same_number_is_not_the_one_that_was() -> None:
    """Numbers come again, and its work would wait for a stranger."""
    boot, space, number, began = process_mark().split()
    assert has_ended(f"{boot} {space} {number} {int(began) + 1}")


@pytest.mark.parametrize("mark", ["", "None", "a b", "a b c d", "a b 1 2"])
def test_of_a_process_elsewhere_nothing_is_known(mark: str) -> None:
    """To take it for dead would run its tasks twice."""
    assert not has_ended(mark)
