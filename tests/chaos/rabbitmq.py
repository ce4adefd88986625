"""A RabbitMQ of a chaos run's own, which may be killed and comes back with its data and at its port."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: seconds it gets to start; usually it takes five
TIMEOUT = 120


class RabbitMQ:
    """See the top of this file; `stop` leaves nothing of it."""

    def __init__(self) -> None:
        # Not below a folder of ours alone, as a test's are: as root we start it as a user who must get through.
        self._place = tempfile.TemporaryDirectory(prefix="chaos-rabbitmq-", dir="/tmp")
        Path(self._place.name).chmod(0o711)
        self._folder = Path(self._place.name) / "services"
        self.url = ""

    def start(self) -> None:
        """Start it; `url` is its address then."""
        self._order("start", "rabbitmq")
        for line in (self._folder / "rabbitmq.env").read_text().splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            if name == "FUTUREBROKER_TEST_RABBITMQ_URL":
                self.url = value

    def kill(self) -> None:
        """SIGKILL to it."""
        self._order("kill-rabbitmq")

    def revive(self) -> None:
        """Start it again after `kill`; returns when it serves."""
        self._order("revive-rabbitmq")

    def stop(self) -> None:
        """End it for good."""
        self._order("stop")
        self._place.cleanup()

    def _order(self, *arguments: str) -> None:
        subprocess.run(
            [str(ROOT / ".ci" / "services"), *arguments],
            env={**os.environ, "FUTUREBROKER_SERVICES_DIR": str(self._folder)},
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
