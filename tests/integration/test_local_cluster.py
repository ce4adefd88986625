"""LocalCluster: it starts, grows, shrinks and ends with its program, as processes and inside one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from futurebroker import Client, LocalCluster
from futurebroker.exceptions import FuturebrokerError, StartError
from tests.integration.programs import lines_until, run, running


def slowly(number: int) -> int:
    """Long enough that some wait when their worker leaves."""
    threading.Event().wait(0.05)
    return number


def grow(nbytes: int) -> int:
    """Keep so much in the process that this runs in."""
    sys.modules["grown"] = ModuleType("grown", "x" * nbytes)
    return nbytes


@pytest.fixture(params=[True, False], ids=["processes", "threads"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """A small cluster of either kind."""
    with LocalCluster(n_workers=1, executors_per_worker=1, processes=request.param) as cluster:
        yield cluster


def test_a_cluster_runs_what_its_client_submits(cluster: LocalCluster) -> None:
    """The point of it all."""
    with cluster.get_client() as client:
        assert client.submit(sum, client.map(abs, range(-10, 0))).result(timeout=30) == 55
    assert list(cluster.workers) == ["local-1"]


def test_the_dashboard_listens_where_it_is_told() -> None:
    """By the keyword that dask has for it, and at a free port when that one is taken."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with LocalCluster(n_workers=0, dashboard_address=f":{port}") as cluster:
        assert f"127.0.0.1:{port}/" in cluster.dashboard_link
    with Client(n_workers=0, dashboard_address=None) as client, pytest.raises(FuturebrokerError, match="no dashboard"):
        client.dashboard_link  # noqa: B018 - asking for it is what fails
    for wrong in ("here", ":-1", 70_000):
        with pytest.raises(ValueError, match="dashboard_address takes"):
            LocalCluster(dashboard_address=wrong)


def test_tasks_run_outside_this_process_unless_told_otherwise(cluster: LocalCluster) -> None:
    """A crash in a task must not be one of the program; with ``processes=False`` a debugger reaches it."""
    with Client(cluster) as client:
        pid = client.submit(os.getpid).result(timeout=30)
    assert (pid == os.getpid()) is not cluster.processes


def test_scaling_adds_and_removes_workers(cluster: LocalCluster) -> None:
    """New workers are there when scale returns, and leavers are gone."""
    cluster.scale(2)
    with cluster.get_client() as client:
        assert {worker["name"] for worker in client.scheduler_info()["workers"].values()} == {"local-1", "local-2"}
        cluster.scale(1)
        assert list(cluster.workers) == ["local-1"]
        assert client.submit(pow, 2, 5).result(timeout=30) == 32


def test_waiting_for_workers_sees_those_that_another_thread_adds(cluster: LocalCluster) -> None:
    """A program may grow its cluster in the background and wait where it needs it."""
    growing = threading.Thread(target=cluster.scale, args=(2,))
    growing.start()
    cluster.wait_for_workers(2, timeout=30)
    assert len(cluster.workers) == 2
    growing.join()
    with pytest.raises(TimeoutError, match="2 of 3 workers"):
        cluster.wait_for_workers(3, timeout=0.01)


def test_a_single_worker_shares_the_scheduler_s_process_until_it_leaves() -> None:
    """What is submitted changes processes twice less; it comes and goes as any other, and takes nothing with it."""
    with LocalCluster(executors_per_worker=2) as cluster, cluster.get_client() as client:
        scheduler, *_ = cluster._machinery.children  # type: ignore[union-attr]
        assert cluster.workers["local-1"].pid == scheduler.pid
        executors = {client.submit(os.getpid, workers="local-1", pure=False).result(30) for _ in range(20)}
        assert executors <= {child.pid for child in psutil.Process(scheduler.pid).children()}
        kept = client.submit(bytes, 200_000, workers="local-1", allow_other_workers=True)
        assert len(kept.result(30)) == 200_000
        cluster.scale(2)
        assert cluster.workers["local-2"].pid != scheduler.pid
        assert list(client.retire_workers("local-1", timeout=30)) != []
        cluster.wait_for_workers(1, timeout=30)
        assert len(kept.result(30)) == 200_000
        assert client.submit(os.getpid).result(30) not in executors
        assert (list(cluster.workers), scheduler.alive) == (["local-2"], True)


def test_a_single_worker_that_is_scaled_away_hands_back_what_waits() -> None:
    """And the next takes it; the scheduler that it shared a process with goes on."""
    with LocalCluster(executors_per_worker=1) as cluster, cluster.get_client() as client:
        waiting = client.map(slowly, range(20), pure=False)
        assert waiting[0].result(30) == 0
        cluster.scale(0)
        assert cluster.workers == {}
        cluster.scale(1)
        assert client.gather(waiting) == list(range(20))
        assert list(cluster.workers) == ["local-2"]


def test_the_memory_of_a_worker_is_not_that_of_the_scheduler_beside_it() -> None:
    """A million waiting tasks must not hold back what runs."""
    limit = 300 << 20
    with (
        LocalCluster(executors_per_worker=1, memory_limit=limit, allow_run_on_scheduler=True) as cluster,
        cluster.get_client() as client,
    ):
        assert client.run_on_scheduler(grow, limit) == limit
        assert client.gather(client.map(slowly, range(20), pure=False)) == list(range(20))
        (memory,) = client.memory()["workers"].values()
        assert 0 < memory["process"] < limit / 2
        assert psutil.Process(cluster.workers["local-1"].pid).memory_info().rss > limit


def test_closing_twice_is_closing_once() -> None:
    """``with`` and an explicit close meet often."""
    with LocalCluster(executors_per_worker=1, processes=False) as cluster:
        cluster.close()
        cluster.close()
    assert cluster.status == "closed"
    assert cluster.workers == {}


def test_its_repr_says_where_and_how_large_it_is(cluster: LocalCluster) -> None:
    """In a notebook it is all one sees of it, and it must not show the secret."""
    assert cluster.scheduler_address in repr(cluster)
    assert "workers=1 executors=1 threads=1" in repr(cluster)
    assert cluster.scheduler_address in cluster._repr_html_()
    assert cluster.secret.decode() not in repr(cluster) + cluster._repr_html_()


def test_every_cluster_has_a_secret_of_its_own() -> None:
    """Who knows one program's secret must not own another's executors."""
    with LocalCluster(0, processes=False) as one, LocalCluster(0, processes=False) as other:
        assert one.secret != other.secret
        assert one.name != other.name


def test_an_asynchronous_cluster_starts_grows_and_ends_without_holding_the_loop() -> None:
    """The same methods, awaited."""

    async def program() -> int:
        async with LocalCluster(executors_per_worker=1, processes=False, asynchronous=True) as cluster:
            await cluster.scale(2)
            async with cluster.get_client() as client:
                return int(await client.submit(sum, [1, 2, 3]))

    assert asyncio.run(program()) == 6


def test_an_awaited_cluster_is_started() -> None:
    """``cluster = await LocalCluster(asynchronous=True)`` reads as in dask."""

    async def program() -> list[str]:
        cluster = await LocalCluster(executors_per_worker=1, processes=False, asynchronous=True)
        names = list(cluster.workers)
        await cluster.close()
        return names

    assert asyncio.run(program()) == ["local-1"]


def test_a_client_without_an_address_starts_a_cluster_and_takes_it_along() -> None:
    """The first thing a new user sees; how long it takes is measured by the bench."""
    before = set(psutil.Process().children(recursive=True))
    client = Client(executors_per_worker=2)
    ours = set(psutil.Process().children(recursive=True)) - before
    assert client.submit(abs, -1).result(timeout=30) == 1
    client.close()
    assert ours
    assert not psutil.wait_procs(ours, timeout=10)[1]


def test_a_taken_port_is_an_error_that_says_so() -> None:
    """Not a traceback of asyncio's, and not a cluster without a scheduler."""
    refused = pytest.raises(StartError, match="the scheduler did not start: .*in use")
    with socket.create_server(("127.0.0.1", 0)) as taken, refused:
        LocalCluster(executors_per_worker=1, port=taken.getsockname()[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LocalCluster(-1), "n_workers must be at least 0"),
        (lambda: LocalCluster(threads_per_worker=0), r"nthreads = 0 \(argument\).*1 or more"),
        (lambda: LocalCluster(executors_per_worker=0), r"executors = 0 \(argument\).*1 or more"),
    ],
)
def test_numbers_that_make_no_cluster_are_refused(wrong: Callable[[], object], message: str) -> None:
    """Before anything has started."""
    with pytest.raises(ValueError, match=message):
        wrong()


SERVING = """
from futurebroker import LocalCluster
import psutil, sys
cluster = LocalCluster({workers}, executors_per_worker=1)
print("pids", *[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
sys.stdin.readline()
{last}
"""


def pids(program: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a SERVING program has started; some it starts for a moment only."""
    found = []
    for pid in lines_until(program, "pids")[-1].split()[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(pid)))
    return found


@pytest.mark.parametrize(("workers", "processes"), [(1, 2), (2, 5)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_cluster_dies_with_a_program_that_is_killed(
    number: signal.Signals, workers: int, processes: int, tmp_path: Path
) -> None:
    """The program has no moment to tidy up, and yet no scheduler, worker or executor may stay."""
    command = [sys.executable, "-c", SERVING.format(last="", workers=workers)]
    with running(command, tmp_path) as program:
        children = pids(program)
        assert len(children) >= processes
        program.send_signal(number)
        assert not psutil.wait_procs(children, timeout=20)[1]
        assert program.communicate() == ("", "")


def test_a_forked_copy_of_the_program_leaves_the_cluster_alone(tmp_path: Path) -> None:
    """Its exit handlers run as well, and must neither end what isn't the copy's nor wait for threads it lacks."""
    program = """
import os, sys, warnings
from futurebroker import Client
client = Client(executors_per_worker=1)
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
if os.fork() == 0:
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]), client.submit(abs, -4).result(timeout=30))
"""
    done = run([sys.executable, "-c", program], tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("0 4\n", "", 0)


def test_ctrl_c_ends_the_program_and_the_cluster_without_noise_from_the_cluster(tmp_path: Path) -> None:
    """A terminal sends the signal to the whole group; only the program itself may answer it."""
    script = """
import signal
try:
    print("waiting", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""
    source = SERVING.replace("sys.stdin.readline()\n", "").format(last=script, workers=1)
    with running([sys.executable, "-c", source], tmp_path) as program:
        children = pids(program)
        lines_until(program, "waiting")
        os.killpg(program.pid, signal.SIGINT)
        out, err = program.communicate(timeout=20)
        assert (out, err) == ("interrupted\n", "")
        assert not psutil.wait_procs(children, timeout=20)[1]


def test_a_cluster_that_nobody_closes_ends_with_the_program(tmp_path: Path) -> None:
    """Also when the program ends normally."""
    done = run([sys.executable, "-c", SERVING.format(last="", workers=1)], tmp_path, "\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pids ")


@pytest.mark.parametrize("journal", ["none", "process"])
def test_a_cluster_in_the_program_s_own_threads_ends_with_it_in_silence(tmp_path: Path, journal: str) -> None:
    """By then Python starts no thread of a pool any more, and what ends with one has to end without."""
    program = f"""
from futurebroker import Client
client = Client(processes=False, journal={journal!r}, database_url="sqlite:///{tmp_path}/kept.db")
print(client.submit(abs, -4).result())
"""
    done = run([sys.executable, "-c", program], tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("4\n", "", 0)
