"""Files, plugins, callbacks, restarts and retirement, with real executor processes."""

from __future__ import annotations

import importlib
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from futurebroker import CancelledError, Client, LocalCluster, SchedulerPlugin, WorkerPlugin
from futurebroker.exceptions import FuturebrokerError, MessageTooLargeError, TaskError
from tests.integration.software import wait_for


def version_of_uploaded() -> Any:
    return importlib.import_module("uploaded_module").version()


def kill_oneself() -> None:
    os.kill(os.getpid(), 9)


def test_an_uploaded_file_is_imported_everywhere(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    """By present executors, those started later, and again when it was changed."""
    path = tmp_path / "uploaded_module.py"
    path.write_text("def version():\n    return 1\n")
    assert client.upload_file(path).keys() == client.nthreads().keys()
    everywhere = list(cluster.workers)
    assert [client.submit(version_of_uploaded, workers=name).result(30) for name in everywhere] == [1, 1]
    path.write_text("def version():\n    return 2\n")
    client.upload_file(path)
    cluster.scale(3)
    everywhere = list(cluster.workers)
    assert [client.submit(version_of_uploaded, workers=name).result(30) for name in everywhere] == [2, 2, 2]
    client.restart_workers()
    assert [client.submit(version_of_uploaded, workers=name).result(30) for name in everywhere] == [2, 2, 2]


def test_an_uploaded_zip_becomes_part_of_the_import_path(client: Client, tmp_path: Path) -> None:
    """As eggs do; and what can't be uploaded is refused before anything is sent."""
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        archive.writestr("uploaded_module.py", "def version():\n    return 'zipped'\n")
    client.upload_file(tmp_path / "package.zip")
    assert client.submit(version_of_uploaded).result(30) == "zipped"
    (tmp_path / "data.csv").write_text("1")
    with pytest.raises(ValueError, match=r"\.py, \.egg, \.zip, \.pyz"):
        client.upload_file(tmp_path / "data.csv")
    (tmp_path / "large.py").write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    with pytest.raises(MessageTooLargeError):
        client.upload_file(tmp_path / "large.py")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        client.upload_file(tmp_path / "broken.py")


class Marking(WorkerPlugin):
    """Leaves a file for each process that sets it up, and another when it is torn down."""

    name = "marking"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, worker: Any) -> None:
        (self.folder / f"setup {worker.name} {os.getpid()}").touch()
        os.environ["MARKED"] = worker.name

    def teardown(self, worker: Any) -> None:
        (self.folder / f"teardown {worker.name} {os.getpid()}").touch()


def marked() -> str | None:
    return os.environ.get("MARKED")


def test_a_plugin_is_in_every_executor_before_its_first_task(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    """Also in one that takes the place of another that died; and its teardown is called once it goes."""
    client.register_plugin(Marking(tmp_path))
    assert len(list(tmp_path.glob("setup *"))) == 2
    dying = client.submit(kill_oneself, workers="local-1")
    assert dying.exception(30) is not None
    assert client.submit(marked, workers="local-1").result(30) == "local-1"
    cluster.scale(3)
    assert client.submit(marked, workers="local-3").result(30) == "local-3"
    client.unregister_worker_plugin("marking")
    assert len(list(tmp_path.glob("teardown *"))) == 3
    with pytest.raises(ValueError, match="no plugin 'marking'"):
        client.unregister_worker_plugin("marking")


def test_a_plugin_is_torn_down_when_its_executor_ends(tmp_path: Path) -> None:
    """In good order, as when the cluster is closed."""
    with LocalCluster(executors_per_worker=2) as cluster, Client(cluster) as client:
        client.register_plugin(Marking(tmp_path), name="mine")
        client.retire_workers()
    assert len(list(tmp_path.glob("teardown *"))) == 2


def test_a_plugin_whose_setup_fails_says_so(client: Client) -> None:
    """To who registers it."""

    class Failing:
        def setup(self, worker: Any) -> None:
            raise RuntimeError("no licence here")

    with pytest.raises(RuntimeError, match="no licence here"):
        client.register_plugin(Failing())


def test_callbacks_are_called_in_every_executor(cluster: LocalCluster, client: Client) -> None:
    """With the worker, if they take it."""

    def note(dask_worker: Any) -> None:
        os.environ["MARKED"] = f"called on {dask_worker.name}"

    client.register_worker_callbacks(note)
    cluster.scale(3)
    names = list(cluster.workers)
    assert [client.submit(marked, workers=name).result(30) for name in names] == [f"called on {n}" for n in names]


def test_code_in_the_scheduler_must_have_been_allowed(client: Client) -> None:
    """Off unless asked for; the error says how."""
    with pytest.raises(TaskError, match="--allow-run-on-scheduler"):
        client.run_on_scheduler(os.getpid)
    with pytest.raises(TaskError, match="--allow-run-on-scheduler"):
        client.register_plugin(Watching())


class Watching(SchedulerPlugin):
    """Keeps what it is told, where a function in the scheduler finds it."""

    name = "watching"

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, scheduler: Any) -> None:
        os.environ["TOLD"] = f"start {len(scheduler.workers)};"

    def add_worker(self, scheduler: Any, worker: str) -> None:
        os.environ["TOLD"] += f"add {scheduler.workers[worker]['name']};"

    def remove_worker(self, scheduler: Any, worker: str) -> None:
        os.environ["TOLD"] += "remove;"

    def add_client(self, scheduler: Any, client: str) -> None:
        os.environ["TOLD"] += "client;"

    def close(self) -> None:
        os.environ["TOLD"] += "close;"


def test_an_allowed_scheduler_runs_functions_and_plugins() -> None:
    """In its own process, with a view of itself that can't be written."""

    def look(dask_scheduler: Any) -> tuple[int, dict[str, list[str]]]:
        return os.getpid(), dask_scheduler.processing

    with LocalCluster(executors_per_worker=1, allow_run_on_scheduler=True) as cluster, Client(cluster) as client:
        pid, processing = client.run_on_scheduler(look)
        assert pid == client.scheduler_info()["scheduler"]["pid"]
        assert processing == {worker: [] for worker in client.nthreads()}
        with pytest.raises(ZeroDivisionError):
            client.run_on_scheduler(lambda: 1 // 0)
        client.register_plugin(Watching())
        cluster.scale(2)
        cluster.scale(1)
        with Client(cluster, set_as_default=False):
            told = client.run_on_scheduler(os.getenv, "TOLD")
        assert told == "start 1;add local-2;remove;client;"
        client.unregister_scheduler_plugin("watching")
        assert client.run_on_scheduler(os.getenv, "TOLD").endswith("close;")
        with pytest.raises(ValueError, match="no plugin 'watching'"):
            client.unregister_scheduler_plugin("watching")


def test_a_restart_cancels_everything_and_replaces_executors(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    """For every client, and at once; the cluster works on."""
    with Client(cluster, set_as_default=False) as other:
        mine, theirs = client.submit(wait_for, str(tmp_path / "never")), other.submit(abs, -1)
        assert theirs.result(30) == 1
        before = client.run(os.getpid)
        client.restart(timeout=30)
        with pytest.raises(CancelledError):
            mine.result(30)
        assert theirs.cancelled()
        after = client.run(os.getpid)
        assert before.keys() == after.keys()
        assert not set(before.values()) & set(after.values())
        assert client.submit(abs, -3).result(30) == 3


def test_restarted_workers_run_their_tasks_again_and_keep_results(client: Client, tmp_path: Path) -> None:
    """Nobody is blamed for it: no death is counted."""
    kept = client.submit(os.getpid, workers="local-1")
    pid = kept.result(30)
    running = client.submit(wait_for, str(tmp_path / "end"), workers="local-1")
    while not client.call_stack([running]):
        pass
    (outcome,) = client.restart_workers("local-1").values()
    assert outcome == "OK"
    (tmp_path / "end").touch()
    assert running.result(30) != pid
    assert kept.result(30) == pid
    with pytest.raises(FuturebrokerError, match="no worker is called 'nobody'; connected are: local-"):
        client.restart_workers("nobody")
    assert client.restart_workers("nobody", raise_for_error=False) == {"nobody": "failed"}


def test_a_retired_worker_finishes_and_hands_over(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    """Its task isn't run twice, and what only it held is still there."""
    large = client.submit(bytes, 1_000_000, workers="local-1")
    large.result(30)
    running = client.submit(wait_for, str(tmp_path / "end"), workers="local-1")
    while not client.call_stack([running]):
        pass
    with pytest.raises(TimeoutError):
        client.retire_workers("local-1", timeout=0.5)
    assert running.status == "pending"
    (tmp_path / "end").touch()
    client.retire_workers(["local-1"], timeout=30) if "local-1" in _names(client) else None
    assert running.result(30) > 0
    while len(client.nthreads()) > 1:
        pass
    assert len(client.submit(bytes, large).result(30)) == 1_000_000
    with pytest.raises(FuturebrokerError, match="no worker is called 'local-1'"):
        client.retire_workers("local-1")


def _names(client: Client) -> list[str]:
    return [about["name"] for about in client.scheduler_info()["workers"].values()]


def test_the_workers_that_are_missed_least_retire_first(client: Client, tmp_path: Path) -> None:
    """The idle one goes, and the busy one stays."""
    running = client.submit(wait_for, str(tmp_path / "end"))
    while not client.call_stack([running]):
        pass
    (busy,) = [worker for worker, keys in client.processing().items() if keys]
    (gone,) = client.retire_workers(n=1, timeout=30)
    assert gone != busy
    (tmp_path / "end").touch()
    assert running.result(30) > 0


def test_threads_have_plugins_of_their_own(tmp_path: Path) -> None:
    """Executors of one process don't take each other's."""
    told = tmp_path / "told"

    class Counting:
        def setup(self, worker: Any) -> None:
            with told.open("a") as file:
                file.write("s")

        def teardown(self, worker: Any) -> None:
            with told.open("a") as file:
                file.write("t")

    with LocalCluster(processes=False, executors_per_worker=2) as cluster, Client(cluster) as client:
        client.register_plugin(Counting(), name="counting")
        assert told.read_text() == "ss"
        client.unregister_worker_plugin("counting")
        assert told.read_text() == "sstt"
        client.register_plugin(Counting(), name="counting")
    assert told.read_text() == "ssttsstt"
