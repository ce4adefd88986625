"""The client with workers in processes of their own."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from futurebroker import Client, LocalCluster
from futurebroker.exceptions import ClusterConnectionError, ExecutorDiedError, NoSchedulerError, SecretRefusedError

ROOT = Path(__file__).resolve().parents[2]

UNCLOSED = """
from futurebroker import Client

def square(x):
    return x * x

offset = 7

def shifted(x):
    return square(x) + offset

class Thing:
    def __init__(self, x):
        self.x = x

client = Client(executors_per_worker=1)
print(client.gather(client.map(shifted, range(4))), client.submit(Thing, 5).result().x)
print(client.submit(lambda thing: thing.x, Thing(6)).result())
futures = client.map(shifted, range(1000))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One cluster for the tests here: starting it is what takes time."""
    with LocalCluster(executors_per_worker=2) as cluster:
        yield cluster


def inc(x: int) -> int:
    return x + 1


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_twenty_thousand_calls_are_gathered(client: Client) -> None:
    """The workload people measure us by; each result in its place."""
    futures = [client.submit(inc, i) for i in range(20_000)]
    assert client.gather(futures) == list(range(1, 20_001))


def test_large_data_goes_there_and_back_without_a_copy(client: Client) -> None:
    """Through files that are mapped: the array can be written to, and keeps living without its future."""
    array = np.arange(2_000_000)
    data = client.scatter(array)
    doubled = client.submit(np.multiply, data, 2)
    result = doubled.result(30)
    assert not result.flags.owndata
    result[0] = 5
    assert client.submit(np.sum, doubled).result(30) == array.sum() * 2
    doubled.release()
    data.release()
    assert result[1:].sum() == array.sum() * 2


def test_a_call_that_kills_its_executor_fails_with_the_cause() -> None:
    """And the next one finds another executor."""
    with Client(executors_per_worker=1) as client:
        with pytest.raises(ExecutorDiedError, match="SIGKILL"):
            client.submit(die).result(60)
        assert client.submit(inc, 1).result(60) == 2


def test_functions_and_classes_of_a_script_travel_and_its_end_is_clean(tmp_path: Path) -> None:
    """Nobody has to close anything, guard anything, or put code into modules."""
    script = tmp_path / "script.py"
    script.write_text(UNCLOSED)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environ, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[7, 8, 11, 16] 5\n6\n", "")


def test_an_address_with_nobody_there_is_refused_in_time() -> None:
    """With the command that starts a scheduler there."""
    with pytest.raises(NoSchedulerError, match="--port 1$"):
        Client("127.0.0.1:1", timeout=0.5, secret="some secret")


def test_another_secret_is_refused_at_once_with_where_ours_came_from(cluster: LocalCluster) -> None:
    """Waiting can't heal that, and starting another scheduler would be the wrong advice."""
    began = time.monotonic()
    with pytest.raises(SecretRefusedError, match="differ; ours comes from the argument secret=") as caught:
        Client(cluster.scheduler_address, cluster=cluster.name, secret="not the cluster's", timeout=20)
    assert time.monotonic() - began < 10
    assert isinstance(caught.value, ClusterConnectionError)
    assert "futurebroker scheduler" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_client_works_with_asyncio_in_debug_mode(tmp_path: Path) -> None:
    """``python -X dev`` turns it on; a user's thread sends by itself all the same."""
    script = tmp_path / "program.py"
    script.write_text(
        "from futurebroker import Client\n"
        "if __name__ == '__main__':\n"
        "    with Client(n_workers=1, executors_per_worker=1) as client:\n"
        "        print([client.submit(abs, -i).result() for i in range(20)])\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "ignore", str(script)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{list(range(20))}\n"
    assert "Traceback" not in done.stderr


def test_without_any_scheduler_or_secret_the_error_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first try against a machine on which nothing ran yet: the missing part is the scheduler, not the secret."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("FUTUREBROKER_SECRET", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NoSchedulerError, match=f"futurebroker scheduler --port {port}"):
        Client(f"127.0.0.1:{port}", timeout=0.3)
