"""What docs/from-dask.md says to use in place of what isn't here."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client, Future, LocalCluster, Queue
from futurebroker.exceptions import WorkerLostError

PATIENCE = 40


class Counter:
    """State with a method."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, amount: int) -> tuple[int, int]:
        """How much there is now, and in which process."""
        self.count += amount
        return self.count, os.getpid()


def keep(make: Callable[[], Any], calls: Queue) -> None:
    state = make()
    while (call := calls.get()) is not None:
        method, arguments, answers = call
        answers.put(getattr(state, method)(*arguments))


def count_by(calls: Queue, times: int) -> int:
    answers = Queue()
    for _ in range(times):
        calls.put(("add", (1,), answers))
        answers.get(PATIENCE)
    return times


def test_state_is_kept_by_a_task_that_takes_calls_from_a_queue(cluster: LocalCluster, client: Client) -> None:
    """In one executor, whose slot others have meanwhile; when its worker is lost, the future says so."""
    calls, answers = Queue(), Queue()
    keeper: Future[None] = client.submit(keep, Counter, calls, at_most_once=True, workers="local-1")
    calls.put(("add", (5,), answers))
    first, process = answers.get(PATIENCE)
    assert first == 5
    assert sum(client.gather(client.map(count_by, [calls] * 6, [5] * 6))) == 30
    calls.put(("add", (0,), answers))
    assert answers.get(PATIENCE) == (35, process)
    os.kill(cluster.workers["local-1"].pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="local-1"):
        keeper.result(PATIENCE)


def test_such_a_task_ends_when_it_is_told(client: Client) -> None:
    """Its future is done then, as any other."""
    calls = Queue()
    keeper = client.submit(keep, Counter, calls)
    calls.put(None)
    assert keeper.result(PATIENCE) is None


def inside(name: str) -> Any:
    return importlib.import_module(name).value


def test_a_folder_is_uploaded_as_a_zip(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    """With the packages in it, for executors that come later too."""
    (tmp_path / "code" / "uploaded_folder").mkdir(parents=True)
    (tmp_path / "code" / "uploaded_folder" / "__init__.py").write_text("from uploaded_folder.part import value\n")
    (tmp_path / "code" / "uploaded_folder" / "part.py").write_text("value = 'from the folder'\n")
    client.upload_file(shutil.make_archive(str(tmp_path / "code"), "zip", tmp_path / "code"))
    cluster.scale(3)
    names = list(cluster.workers)
    futures = [client.submit(inside, "uploaded_folder", workers=name) for name in names]
    assert client.gather(futures) == ["from the folder"] * 3
