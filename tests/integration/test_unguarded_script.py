"""Scripts as people write them: everything at the top level, no ``if __name__ == "__main__"``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.programs import run

SCRIPT = """
from futurebroker import Client
from helper_of_this_script import triple

def add(x, y):
    return x + y

client = Client(executors_per_worker=2)
total = client.submit(sum, client.map(add, range(5), range(5)))
print("total", total.result(), client.submit(triple, 5).result())
"""


def test_a_script_without_a_guard_runs_once_and_leaves_nothing(tmp_path: Path) -> None:
    """With multiprocessing it would start itself again and again; here it even finds modules beside the script.

    The client is not closed: the end of the program does that.
    """
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "helper_of_this_script.py").write_text("def triple(x):\n    return 3 * x\n")
    done = run([sys.executable, str(tmp_path / "script.py")], Path("/"))
    assert done.stderr == ""
    assert done.stdout == "total 20 15\n"
    assert done.returncode == 0


def test_a_script_from_standard_input_runs(tmp_path: Path) -> None:
    """As in a pipe or a notebook, there is no file that a worker could import."""
    (tmp_path / "helper_of_this_script.py").write_text("def triple(x):\n    return 3 * x\n")
    done = run([sys.executable, "-"], tmp_path, SCRIPT)
    assert (done.stderr, done.stdout, done.returncode) == ("", "total 20 15\n", 0)


def test_an_exception_of_the_script_is_all_that_is_seen(tmp_path: Path) -> None:
    """The cluster must neither hide a program's own error nor add noise of its own to it."""
    script = "from futurebroker import Client\nclient = Client(executors_per_worker=1)\nraise SystemExit('enough')\n"
    done = run([sys.executable, "-"], tmp_path, script)
    assert (done.stderr, done.stdout, done.returncode) == ("enough\n", "", 1)
