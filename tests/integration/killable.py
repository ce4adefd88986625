"""A scheduler with a journal and a worker, each of which a test can kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from futurebroker import Client
from tests.integration.programs import FUTUREBROKER, lines_until, run, running

SECRET = "known to these tests"
PATIENCE = 40


def free_port() -> int:
    """A port that nobody listens on now; schedulers come back on it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """See the top of this file; programs started for it end with ``stack``.

    Args:
        broker: URL of a broker that runs already; the scheduler's own if empty.
        database: URL of the database; a file in the folder if empty.
        variables: more of the programs' environment.
    """

    def __init__(
        self, folder: Path, stack: contextlib.ExitStack, broker: str = "", database: str = "", **variables: str
    ) -> None:
        self.folder = folder
        self.address = broker or f"127.0.0.1:{free_port()}"
        self.database = folder / "journal.db"
        self._stack = stack
        self._place = ["--broker", broker] if broker else ["--port", self.address.rpartition(":")[2]]
        self.variables = {
            "FUTUREBROKER_SECRET": SECRET,
            "FUTUREBROKER_DATABASE_URL": database or f"sqlite:///{self.database}",
            "FUTUREBROKER_VALIDATE": "true",
            "FUTUREBROKER_HISTORY": "false",
            **variables,
        }
        self.scheduler = self.start_scheduler()
        self.worker = self.start_worker()

    def start_scheduler(self, *arguments: str) -> subprocess.Popen[str]:
        """A scheduler at the address."""
        self.scheduler = self.start_standby(*arguments)
        lines_until(self.scheduler, "stop with")
        return self.scheduler

    def start_standby(self, *arguments: str) -> subprocess.Popen[str]:
        """A scheduler that isn't waited for."""
        command = [*FUTUREBROKER, "scheduler", *self._place, *arguments]
        return self._stack.enter_context(running(command, self.folder, **self.variables))

    def start_worker(self) -> subprocess.Popen[str]:
        """A worker that serves it."""
        command = [*FUTUREBROKER, "worker", self.address, "--executors", "2"]
        self.worker = self._stack.enter_context(running(command, self.folder, **self.variables))
        lines_until(self.worker, "serves the scheduler")
        return self.worker

    def kill(self, program: subprocess.Popen[str]) -> None:
        """As `kill -9`."""
        os.kill(program.pid, signal.SIGKILL)
        program.communicate()

    def client(self) -> Client:
        """A client of it."""
        cluster = self.variables.get("FUTUREBROKER_CLUSTER")
        return Client(self.address, secret=SECRET, timeout=PATIENCE, cluster=cluster)

    def program(self, text: str) -> str:
        """What another program prints, that is given ``client``."""
        lines = ["from futurebroker import Client, get_client", f"client = Client({self.address!r})", text]
        done = run([sys.executable, "-c", "\n".join(lines)], self.folder, **self.variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
