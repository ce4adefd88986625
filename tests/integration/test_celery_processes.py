"""What needs processes: executors that die or are ended, workers with ``-A``, schedules, and the commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client, LocalCluster
from futurebroker.celery.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from tests.integration import celery_far as far
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import shows
from tests.integration.celery_tasks import app
from tests.integration.test_scheduler_restart import free_port

WAIT = 30.0
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def _cluster() -> Iterator[None]:
    with LocalCluster(executors_per_worker=2) as cluster, Client(cluster, set_as_default=False) as client:
        app.use_client(client)
        app.set_current()
        yield
    app._sender = None


def get(result: Any) -> Any:
    """The result, waited for."""
    return result.get(timeout=WAIT)


@shows(
    "semantics",
    "17. `acks_late` and a killed child: failed, unless `reject_on_worker_lost` runs it again",
    "differs",
    "it runs again up to `allowed_failures` times, and not for ever",
)
@pytest.mark.usefixtures("_cluster")
def test_a_killed_child(tmp_path: Path) -> None:
    for task in (t.dies, t.dies_late):
        with pytest.raises(WorkerLostError):
            get(task.delay())
    assert get(t.dies_once.delay(str(tmp_path / "once"))) == "done"


@pytest.mark.usefixtures("_cluster")
def test_a_map_finds_its_task_in_a_process_that_knows_only_the_map() -> None:
    """Without -A an executor imports what is called, and that is the map; its task is in another module."""
    far.app.use_client(app.client)
    assert get(far.double.map([1, 2]).apply_async()) == [2, 4]
    assert get(far.double.chunks([(1,), (2,)], 1)()) == [[2], [4]]
    far.app._sender = None


@shows("task", "`time_limit` ends the executor; `terminate` ends a running task")
@pytest.mark.usefixtures("_cluster")
def test_hard_limits_and_termination(tmp_path: Path) -> None:
    with pytest.raises(TimeLimitExceeded):
        get(t.forever.delay())
    started = tmp_path / "started"
    result = t.sleeps.delay(60, str(started))
    end = time.monotonic() + WAIT
    while not started.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError, match="terminated"):
        get(result)


def until(condition: Any) -> Any:
    """Wait for what another process does."""
    end = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


@shows("semantics", "39. SIGTERM: what runs is finished, the rest goes to others")
@shows(
    "semantics",
    "40. redelivery: `acks_late` tasks of a lost worker run again, and one result counts",
    "differs",
    "`worker_deduplicate_successful_tasks` has no effect: an attempt that was given up never counts, and a finished task isn't run again",
)
def test_workers_that_end_and_are_killed(tmp_path: Path) -> None:
    with LocalCluster(n_workers=2, executors_per_worker=1) as cluster, Client(cluster, set_as_default=False) as client:
        app.use_client(client)
        started, again = tmp_path / "started", tmp_path / "again"
        late = t.sleeps_late.delay(1.5, str(again))
        until(again.exists)
        name = until(lambda: app.sender.metas([late.id])[0]["worker"])  # type: ignore[index]
        os.kill(cluster.workers[name].pid, signal.SIGKILL)
        assert get(late) == "slept"
        assert again.read_text() == "begun\n" * 2
        result = t.sleeps.delay(1, str(started))
        until(started.exists)
        name = until(lambda: app.sender.metas([result.id])[0]["worker"])  # type: ignore[index]
        os.kill(cluster.workers[name].pid, signal.SIGTERM)
        assert get(result) == "slept"
        app._sender = None


def serve(environ: dict[str, str], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command that serves; returns when it has said so."""
    program = [sys.executable, "-c", "from futurebroker.cli.main import main; main()", *arguments]
    process = subprocess.Popen(program, env=environ, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_killed_scheduler_remembers_times_results_and_revocations(tmp_path: Path) -> None:
    """A countdown, results of any size with their times, a revoked id and what a running task told survive kill -9."""
    port = free_port()
    secret = "s" * 40
    environ = {**os.environ, "PYTHONPATH": ROOT, "FUTUREBROKER_SECRET": secret}
    order = ("scheduler", "--port", str(port))
    scheduler = serve(environ, tmp_path, *order)
    worker = serve(environ, tmp_path, "worker", f"127.0.0.1:{port}", "-c", "2")
    try:
        with Client(f"127.0.0.1:{port}", secret=secret, set_as_default=False) as client:
            app.use_client(client)
            done = t.add.delay(1, 2)
            assert get(done) == 3
            large = t.identity.delay(b"large" * 100_000)
            assert len(get(large)) == 500_000
            ended = large.date_done
            running = t.tells.delay(str(tmp_path / "gate"))
            until(lambda: running.state == "HALF")
            later = t.add.apply_async((20, 3), countdown=6)
            app.control.revoke("not-this-one")
            app.sender.metas([later.id])
        scheduler.kill()
        scheduler.wait(10)
        scheduler.stdout.close()  # type: ignore[union-attr]
        scheduler = serve(environ, tmp_path, *order)
        with Client(f"127.0.0.1:{port}", secret=secret, set_as_default=False, timeout=20) as client:
            app.use_client(client)
            assert app.AsyncResult(done.id).get(timeout=WAIT) == 3
            found = app.AsyncResult(large.id)
            assert found.get(timeout=WAIT) == b"large" * 100_000
            assert abs((found.date_done - ended).total_seconds()) < 0.1
            running = app.AsyncResult(running.id)
            assert (running.state, running.info) == ("HALF", {"done": 1})
            (tmp_path / "gate").touch()
            assert running.get(timeout=WAIT) == "told"
            assert app.AsyncResult(later.id).get(timeout=WAIT) == 23
            with pytest.raises(TaskRevokedError):
                get(t.add.apply_async((1, 1), task_id="not-this-one"))
    finally:
        app._sender = None
        for process in (worker, scheduler):
            process.terminate()
            process.wait(30)
            process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A scheduler and a worker with ``-A``, as commands; the environment to reach them."""
    port = free_port()
    ticks = tmp_path / "ticks"
    (tmp_path / "deployedapp.py").write_text(
        "from tests.integration.celery_tasks import app\n"
        "app.conf.beat_schedule = {'tick': {'task': 'tests.integration.celery_tasks.appends',\n"
        f"    'schedule': 0.5, 'args': ({str(ticks)!r},)}}}}\n"
    )
    environ = {
        **os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "FUTUREBROKER_SECRET": "s" * 40,
        "FUTUREBROKER_BROKER_URL": f"127.0.0.1:{port}", "TICKS": str(ticks),
    }  # fmt: skip
    alone = {name: value for name, value in environ.items() if name != "FUTUREBROKER_BROKER_URL"}
    command = [sys.executable, "-c", "from futurebroker.cli.main import main; main()"]
    scheduler = subprocess.Popen(
        [*command, "scheduler", "--port", str(port)], env=alone, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert scheduler.stdout is not None
    scheduler.stdout.readline()
    worker = subprocess.Popen(
        [*command, "worker", "-A", "deployedapp", "-c", "1", "-Q", "celery,mail", "--max-tasks-per-child", "5"],
        env=environ, cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdout is not None
    try:
        assert "serves" in worker.stdout.readline()
        yield environ
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()


def command(environ: dict[str, str], *arguments: str) -> str:
    """What ``futurebroker`` prints."""
    program = [sys.executable, "-c", "from futurebroker.cli.main import main; main()", *arguments]
    done = subprocess.run(program, env=environ, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@shows(
    "rest",
    "worker: `-A`, `-Q`, `-c`, `--max-tasks-per-child`, `--max-memory-per-child`, `--time-limit`, `--soft-time-limit`",
    "differs",
    "the scheduler decides what is sent ahead",
)
@shows("rest", "commands `inspect`, `control`, `call`, `result`, `purge`")
@shows(
    "rest",
    "`beat_schedule`: fired by the scheduler",
    "differs",
    "there is no beat process, and no scheduler class of one's own",
)
def test_a_deployed_app(deployed: dict[str, str]) -> None:
    name = "tests.integration.celery_tasks.add"
    end = time.monotonic() + WAIT
    while name not in command(deployed, "inspect", "registered"):
        assert time.monotonic() < end
    assert "mail" in command(deployed, "inspect", "active_queues")
    task_id = command(deployed, "call", name, "--args", "[2, 3]")
    assert command(deployed, "result", task_id) == "5"
    late = command(deployed, "call", name, "--args", "[2, 3]", "--countdown", "60")
    assert late in command(deployed, "inspect", "scheduled")
    assert "gave up 1 task" in command(deployed, "purge", "--force")
    assert "revoked" in command(deployed, "control", "revoke", "some-id")
    ticks = Path(deployed["TICKS"])
    while not ticks.exists() or len(ticks.read_text().split()) < 4:
        assert time.monotonic() < end
        time.sleep(0.05)
    times = [float(line) for line in ticks.read_text().split()]
    # Late ones may come together; never more than were due.
    assert len(times) <= (times[-1] - times[0]) / 0.5 + 2
