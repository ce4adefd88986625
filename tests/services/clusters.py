"""Whole clusters at a broker that runs already, from the commands that a user types."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from futurebroker import Client
from tests.integration.programs import FUTUREBROKER, lines_until, running


@dataclass
class Deployment:
    """One cluster at a broker: how its programs are told of it, and clients of it."""

    url: str
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    cluster: str = field(default_factory=lambda: f"test-{secrets.token_hex(4)}")

    @property
    def variables(self) -> dict[str, str]:
        return {"FUTUREBROKER_SECRET": self.secret, "FUTUREBROKER_CLUSTER": self.cluster}

    def client(self, **options: Any) -> Client:
        """A client of this cluster."""
        return Client(self.url, secret=self.secret, cluster=self.cluster, **options)


@contextlib.contextmanager
def up_at(url: str, folder: Path, **variables: str) -> Iterator[Deployment]:
    """A scheduler and a worker with one executor at ``url``."""
    deployment = Deployment(url)
    command = [*FUTUREBROKER, "up", "--executors", "1", "--broker", url]
    with running(command, folder, **{**deployment.variables, **variables}) as up:
        lines_until(up, "one worker runs")
        yield deployment
        up.terminate()
        assert up.wait(30) == 0


@contextlib.contextmanager
def scheduler_at(url: str, folder: Path, **variables: str) -> Iterator[Deployment]:
    """A scheduler without workers at ``url``."""
    deployment = Deployment(url)
    command = [*FUTUREBROKER, "scheduler", "--broker", url]
    with running(command, folder, **{**deployment.variables, **variables}) as scheduler:
        lines_until(scheduler, "stop with")
        yield deployment
        scheduler.terminate()
        assert scheduler.wait(30) == 0
