"""A leader and its standby at one broker, with a worker and a client: the play of several tests."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from futurebroker import Client
from tests.integration.brokers import SECRET, embedded_broker
from tests.integration.programs import FUTUREBROKER, lines_until, running


def take_over(folder: Path, database: str, stop: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str]:
    """Have a standby follow a leader that ``stop`` does something to; what the leader then exits with, and says."""
    with embedded_broker(heartbeat=2) as broker:
        variables = {"FUTUREBROKER_SECRET": SECRET.decode(), "FUTUREBROKER_DATABASE_URL": database}
        scheduler = [*FUTUREBROKER, "scheduler", "--broker", broker.url]
        with (
            running(scheduler, folder, **variables) as leader,
            running([*FUTUREBROKER, "worker", broker.url, "--executors", "1"], folder, **variables) as worker,
        ):
            lines_until(leader, "stop with")
            lines_until(worker, "serves the scheduler")
            with Client(broker.url, secret=SECRET.decode(), timeout=60) as client:
                first = client.submit(pow, 2, 100)
                assert first.result(30) == 2**100
                kept = client.submit(pow, 3, 3, keep=600.0)
                assert kept.result(30) == 27
                with running([*scheduler, "--standby"], folder, **variables) as standby:
                    lines_until(standby, "waiting to lead")
                    stop(leader)
                    lines_until(standby, "stop with")
                    assert client.submit(pow, first, 2).result(60) == 2**200
                    assert client.future(kept.key).result(30) == 27
                    leader.send_signal(signal.SIGCONT)
                    _, said = leader.communicate(timeout=60)
                    assert client.submit(pow, 5, 2).result(60) == 25
                    standby.terminate()
                    assert standby.wait(30) == 0, standby.communicate()
            worker.terminate()
            worker.communicate()
    return leader.returncode, said


def kill(leader: subprocess.Popen[str]) -> None:
    """SIGKILL, and it is gone."""
    leader.kill()
    leader.wait()


def stand_still(leader: subprocess.Popen[str]) -> None:
    """SIGSTOP: to everybody else it looks dead."""
    leader.send_signal(signal.SIGSTOP)
