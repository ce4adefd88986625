"""What every executor has (plugins, files, callbacks, an environment) is there after the scheduler was killed."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from futurebroker import Client, SchedulerPlugin
from futurebroker.exceptions import TaskError
from tests.integration.programs import FUTUREBROKER, lines_until, running
from tests.integration.software import greet, packed_venv
from tests.integration.test_scheduler_restart import SECRET, free_port

JOURNALS = ["none", "process"]


class Marks:
    """A plugin whose traces tasks find."""

    name = "marks"

    def __init__(self, text: str) -> None:
        self.text = text

    def setup(self, worker: object) -> None:
        os.environ["MARKS"] = os.environ.get("MARKS", "") + self.text

    def teardown(self, worker: object) -> None:
        del os.environ["MARKS"]


def call_back() -> None:
    os.environ["CALLED"] = "yes"


def traces() -> tuple[str | None, str | None, int, int]:
    """What a task finds of plugin, callback and file in its executor."""
    value = importlib.import_module("uploaded_here").VALUE
    return os.environ.get("MARKS"), os.environ.get("CALLED"), value, os.getpid()


class Ground:
    """A scheduler that can be killed and started again, and workers."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, journal: str, *more: str) -> None:
        self._stack = stack
        self._folder = folder
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._command = [*FUTUREBROKER, "scheduler", "--port", str(port), "--journal", journal, *more]
        self.workers: dict[str, subprocess.Popen[str]] = {}
        self.scheduler = self._start()

    def _start(self) -> subprocess.Popen[str]:
        program = self._stack.enter_context(running(self._command, self._folder, TMPDIR=str(self._folder), **SECRET))
        self._stack.callback(self._stop, program)
        lines_until(program, "stop with")
        return program

    def _stop(self, program: subprocess.Popen[str]) -> None:
        """Have a scheduler end what it started: the process of its history yields to all others, also in ending."""
        if program.poll() is None:
            program.send_signal(signal.SIGINT)
            program.communicate(timeout=60)

    def restart(self, without: str = "") -> None:
        """SIGKILL, and another; ``without`` an option of the first."""
        started = psutil.Process(self.scheduler.pid).children(recursive=True)
        self.kill(self.scheduler)
        assert psutil.wait_procs(started, timeout=60)[1] == []
        self._command = [word for word in self._command if word != without]
        self.scheduler = self._start()

    def kill(self, program: subprocess.Popen[str]) -> None:
        os.kill(program.pid, signal.SIGKILL)
        program.wait(10)

    def worker(self, name: str) -> None:
        """A worker with one executor and a folder for temporary files of its own, as on a machine of its own."""
        place = self._folder / name
        place.mkdir()
        command = [*FUTUREBROKER, "worker", self.address, "--executors", "1", "--name", name]
        program = self._stack.enter_context(running(command, self._folder, TMPDIR=str(place), **SECRET))
        lines_until(program, f"worker {name} serves")
        self.workers[name] = program

    def client(self) -> Client:
        return self._stack.enter_context(Client(self.address, secret=SECRET["FUTUREBROKER_SECRET"]))


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What a test started."""
    with contextlib.ExitStack() as stack:
        yield stack


def upload(client: Client, folder: Path, value: int) -> None:
    file = folder / "uploaded_here.py"
    file.write_text(f"VALUE = {value}\n")
    client.upload_file(file)


@pytest.mark.parametrize("journal", JOURNALS)
def test_standing_calls_are_made_in_what_starts_after_a_restart(
    journal: str, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """New executors of an old worker have them, and new workers; old executors aren't bothered again."""
    ground = Ground(stack, tmp_path, journal)
    ground.worker("w1")
    client = ground.client()
    client.register_plugin(Marks("gone"), name="another")
    client.unregister_worker_plugin("another")
    client.register_plugin(Marks("+"))
    client.register_worker_callbacks(call_back)
    upload(client, tmp_path, 1)
    upload(client, tmp_path, 2)
    before = client.submit(traces, workers="w1").result(30)
    assert before[:3] == ("+", "yes", 2)
    ground.restart()
    assert client.submit(traces, workers="w1").result(30) == before
    ground.worker("w2")
    assert client.submit(traces, workers="w2").result(30)[:3] == ("+", "yes", 2)
    client.restart_workers(["w1"])
    after = client.submit(traces, workers="w1").result(30)
    assert (after[:3], after[3] != before[3]) == (("+", "yes", 2), True)
    client.unregister_worker_plugin("marks")
    ground.restart()
    ground.worker("w3")
    assert [client.submit(traces, workers=name).result(30)[:3] for name in ("w1", "w3")] == [(None, "yes", 2)] * 2


def test_a_journal_keeps_standing_calls_when_the_workers_are_gone_as_well(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """Everything is killed at once, and another client doesn't know of them."""
    ground = Ground(stack, tmp_path, "process")
    ground.worker("w1")
    client = ground.client()
    client.register_plugin(Marks("+"))
    client.register_worker_callbacks(call_back)
    upload(client, tmp_path, 3)
    client.close()
    ground.kill(ground.workers["w1"])
    ground.restart()
    ground.worker("w2")
    assert ground.client().submit(traces).result(60)[:3] == ("+", "yes", 3)


class Telling(SchedulerPlugin):
    """Leaves a trace in the scheduler's process."""

    name = "telling"

    def __init__(self, text: str) -> None:
        self.text = text

    def start(self, scheduler: object) -> None:
        if self.text == "fail":
            raise ValueError("not today")
        os.environ["TOLD"] = os.environ.get("TOLD", "") + self.text

    def close(self) -> None:
        os.environ["TOLD"] += "closed"


def told() -> str | None:
    return os.environ.get("TOLD")


def test_plugins_of_the_scheduler_are_started_again_in_the_next(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    """Those that are registered, in their order; not one that was taken away, was replaced or could not start."""
    ground = Ground(stack, tmp_path, "process", "--allow-run-on-scheduler")
    client = ground.client()
    client.register_plugin(Telling("old"))
    client.register_plugin(Telling("a"), name="another")
    client.register_plugin(Telling("b"))
    client.register_plugin(Telling("c"), name="gone")
    client.unregister_scheduler_plugin("gone")
    with pytest.raises(ValueError, match="not today"):
        client.register_plugin(Telling("fail"), name="failing")
    client.close()
    for _ in range(2):  # what was replayed is remembered as well
        ground.restart()
    client = ground.client()
    assert client.run_on_scheduler(told) == "ab"
    client.unregister_scheduler_plugin("another")
    client.close()
    ground.restart()
    assert ground.client().run_on_scheduler(told) == "b"


def test_a_scheduler_that_may_not_run_code_starts_no_plugin_of_a_former_one(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """The permission is that of the process, whatever its journal says."""
    trace = tmp_path / "started"
    ground = Ground(stack, tmp_path, "process", "--allow-run-on-scheduler")
    client = ground.client()
    client.register_plugin(Touching(str(trace)))
    assert trace.exists()
    trace.unlink()
    client.close()
    ground.restart(without="--allow-run-on-scheduler")
    client = ground.client()
    assert any("plugin touching" in line for _, line in client.get_scheduler_logs())
    with pytest.raises(TaskError, match="--allow-run-on-scheduler"):
        client.run_on_scheduler(told)
    assert not trace.exists()


class Touching(SchedulerPlugin):
    """Leaves a file when it is started."""

    name = "touching"

    def __init__(self, path: str) -> None:
        self.path = path

    def start(self, scheduler: object) -> None:
        Path(self.path).touch()


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with another version of a package."""
    return packed_venv(tmp_path_factory.mktemp("environments") / "new")


@pytest.mark.parametrize("journal", JOURNALS)
def test_an_environment_is_in_use_after_a_restart(journal: str, stack: contextlib.ExitStack, zipped: Path) -> None:
    """Old executors run on in it, and a new worker gets it: from another worker, where the scheduler has it no more."""
    folder = zipped.parent / journal
    folder.mkdir()
    ground = Ground(stack, folder, journal)
    ground.worker("w1")
    client = ground.client()
    client.upload_environment("new", zipped)
    client.restart(environment="new")
    before = client.submit(greet, workers="w1").result(30)
    pid = client.submit(os.getpid, workers="w1").result(30)
    assert before[0] == "2.0"
    ground.restart()
    assert client.submit(os.getpid, workers="w1").result(30) == pid
    environments = client.list_environments()
    assert (environments["new"]["current"], environments["new"]["complete"]) == (True, True)
    ground.worker("w2")
    version, prefix = client.submit(greet, workers="w2").result(60)
    assert (version, prefix != before[1]) == ("2.0", True)
    if journal == "process":
        client.close()
        for program in ground.workers.values():
            ground.kill(program)
        ground.restart()
        client = ground.client()
    client.upload_environment("new", zipped)  # it is there: nothing is sent
    ground.worker("w3")
    assert client.submit(greet, workers="w3").result(60)[0] == "2.0"
    client.restart(environment=None)
    ground.restart()
    assert client.submit(os.getpid, workers="w3").result(60) > 0
    assert not client.list_environments()["new"]["current"]
