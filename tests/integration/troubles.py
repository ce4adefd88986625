"""A scheduler whose database fails for a while: the play of several tests."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from futurebroker import Client
from tests.integration.killable import free_port
from tests.integration.programs import FUTUREBROKER, lines_until, running

SECRET = "s" * 32
#: seconds that a database fails; longer than a scheduler takes it for a moment's delay
WHILE = 2.5
#: calls that run during it and around it
DURING = 50
TASKS = DURING + 3

Trouble = Callable[[subprocess.Popen[str]], contextlib.AbstractContextManager[None]]


def endure(
    folder: Path,
    database: str,
    trouble: Trouble,
    seconds: float = WHILE,
    command: Sequence[str] = FUTUREBROKER,
    then: Callable[[], None] = lambda: None,
) -> str:
    """Run work before, through and after ``seconds`` of ``trouble``; returns what the scheduler said.

    Nothing may be told as done while it can't be written, nor be taken in, and all must be once it can, by itself;
    ``then`` looks how it stands afterwards.
    """
    variables = {"FUTUREBROKER_SECRET": SECRET, "FUTUREBROKER_DATABASE_URL": database}
    port = free_port()
    with (
        running([*command, "scheduler", "--port", str(port)], folder, **variables) as scheduler,
        running([*FUTUREBROKER, "worker", f"127.0.0.1:{port}", "--executors", "1"], folder, **variables) as worker,
    ):
        lines_until(scheduler, "stop with")
        lines_until(worker, "serves the scheduler")
        with Client(f"127.0.0.1:{port}", secret=SECRET) as client:
            assert client.submit(pow, 2, 5).result(30) == 32
            with trouble(scheduler):
                during = [client.submit(pow, 3, number) for number in range(DURING)]
                with pytest.raises(TimeoutError):
                    during[0].result(seconds)
                assert not any(future.done() for future in during)
                late = client.submit(pow, 7, 2)
                with pytest.raises(TimeoutError):
                    late.result(0.5)
            assert client.gather(during) == [3**number for number in range(DURING)]
            assert late.result(30) == 49
            assert client.submit(pow, 5, 2).result(30) == 25
            then()
        for program in (worker, scheduler):
            program.terminate()
        _, said = scheduler.communicate(timeout=30)
        worker.communicate(timeout=30)
    assert scheduler.returncode == 0
    return said
