"""A cluster that grows with its work and shrinks again, as a user sees it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from futurebroker import Client, LocalCluster
from tests.integration.software import wait_for


@pytest.mark.parametrize("processes", [True, False], ids=["processes", "threads"])
def test_workers_come_with_work_and_leave_without_losing_results(tmp_path: Path, processes: bool) -> None:
    """From none; the last one stays as long as somebody wants what it holds."""
    with LocalCluster(n_workers=0, executors_per_worker=1, processes=processes) as cluster, Client(cluster) as client:
        adaptive = cluster.adapt(0, 3, target_duration="100ms", interval="50ms", wait_count=2)
        futures = [client.submit(wait_for, str(tmp_path / "end")) for _ in range(3)]
        client.wait_for_workers(3, timeout=40)
        large = client.submit(bytes, 1_000_000)
        (tmp_path / "end").touch()
        assert all(client.gather(futures))
        assert len(large.result(30)) == 1_000_000
        while len(client.nthreads()) > 1 or len(cluster.workers) > 1:
            pass
        assert len(client.submit(bytes, large).result(30)) == 1_000_000
        del large
        while client.nthreads() or cluster.workers:
            pass
        assert client.submit(abs, -1).result(40) == 1
        assert max(wanted for _, wanted, _ in adaptive.log) == 3
        cluster.scale(1)  # ends the adapting
        assert repr(adaptive).endswith("stopped>")
        assert len(cluster.workers) == 1


def test_a_command_scales_a_platform(tmp_path: Path) -> None:
    """The command line, with a platform that only writes down what it is told."""
    log = tmp_path / "log"
    program = f"import sys; open({str(log)!r}, 'a').write(sys.argv[1] + chr(10))"
    with LocalCluster(n_workers=0, executors_per_worker=1) as cluster, Client(cluster) as client:
        future = client.submit(abs, -2)
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} {{n}}"
        environ = {**os.environ, "FUTUREBROKER_SECRET": cluster.secret.decode()}
        adapt = subprocess.Popen(
            [sys.executable, "-m", "futurebroker", "adapt", cluster.scheduler_address, "--cluster", cluster.name,
             "--command", command, "--maximum", "2", "--interval", "50ms", "--wait-count", "1"],
            env=environ, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while not (log.exists() and log.read_text().startswith("1\n")):
                assert adapt.poll() is None
            cluster.scale(1)
            assert future.result(30) == 2
            del future
            while not log.read_text().endswith("0\n"):
                assert adapt.poll() is None
        finally:
            adapt.send_signal(signal.SIGINT)
            adapt.communicate(timeout=20)
        assert client.nthreads() == {}
