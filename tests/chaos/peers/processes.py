"""Processes of another system, started by their commands and killed with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.chaos.proxy import Wire

ROOT = Path(__file__).resolve().parents[3]


def start(*command: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start a module of this Python's, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """It and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    return []


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to it and all that it started, as when its machine goes."""
    for member in family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait(60)


def until_it_listens(port: int) -> None:
    """Return once somebody takes calls there.

    Raises:
        TimeoutError: nobody does within a minute.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


class PeerWorker:
    """One worker of another system, and its wire; see `tests.chaos.rig.Outpost`.

    Args:
        command: of the worker.
        variables: of its environment.
    """

    def __init__(self, name: str, wire: Wire, command: tuple[str, ...], **variables: str) -> None:
        self.name = name
        self.wire = wire
        self._command = command
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        """Start it; nobody waits for it to join."""
        self._process = start(*self._command, **self._variables)

    def executors(self) -> list[int]:
        """The processes below it that run tasks."""
        assert self._process is not None
        found = []
        for member in family(self._process)[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "resource_tracker" not in " ".join(member.cmdline()):
                    found.append(member.pid)
        return sorted(found)

    def signal(self, number: signal.Signals) -> None:
        """Send it and what it started a signal."""
        assert self._process is not None
        for member in family(self._process):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        assert self._process is not None
        kill(self._process)

    def end(self) -> None:
        """Have it gone."""
        if self._process is not None and self._process.poll() is None:
            kill(self._process)
