"""The check that every test leaves nothing behind, seen to find each kind of thing that can be left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Every test here leaves one thing behind, except the last two; what is left ends with the process.
LEAVING = """
import os
import socket
import subprocess
import sys
import tempfile
import threading

import tests.conftest

tests.conftest.PATIENCE = 0.2
KEPT = []
FOREVER = "import sys; sys.stdin.read()"


def test_a_process():
    reading, KEEPS_IT_ALIVE = os.pipe()
    KEPT.append(subprocess.Popen([sys.executable, "-c", FOREVER], stdin=reading))


def test_an_orphan():
    reading, KEEPS_IT_ALIVE = os.pipe()
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    subprocess.run([sys.executable, "-c", parent, FOREVER], stdin=reading, check=True)


def test_a_thread():
    done = threading.Event()
    KEPT.append(threading.Thread(target=done.wait, args=(2,), name="left"))
    KEPT[-1].start()


def test_a_daemon_of_ours():
    threading.Thread(target=threading.Event().wait, name="futurebroker-io", daemon=True).start()


def test_a_socket():
    KEPT.append(socket.socket())


def test_a_file():
    tempfile.mkstemp()


def test_a_daemon_of_others_passes():
    threading.Thread(target=threading.Event().wait, name="theirs", daemon=True).start()


def test_what_ends_soon_passes():
    threading.Thread(target=threading.Event().wait, args=(0.05,)).start()
"""


def test_whatever_a_test_leaves_behind_fails_that_test(tmp_path: Path) -> None:
    """A leak that is found in the test that made it costs minutes; found later it costs days."""
    (tmp_path / "test_leaving.py").write_text(LEAVING)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = ["-p", "tests.conftest", "-p", "no:randomly", "-p", "no:cacheprovider", "--basetemp=base", "-rA", "."]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
    )
    for name in ("a_process", "an_orphan", "a_thread", "a_daemon_of_ours", "a_socket", "a_file"):
        assert f"ERROR test_leaving.py::test_{name} - Failed: left behind: " in run.stdout, run.stdout
    assert "8 passed, 6 errors" in run.stdout
