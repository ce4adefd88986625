"""Tasks that raise `Reschedule`: they run again after a pause, and nobody is told of a failure."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client, LocalCluster, Reschedule, get_client, get_worker
from futurebroker.exceptions import CancelledError

PATIENCE = 60


@pytest.fixture(params=[True, False], ids=["processes", "threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a cluster of two workers with one executor each."""
    with (
        LocalCluster(n_workers=2, executors_per_worker=1, processes=request.param) as cluster,
        Client(cluster) as client,
    ):
        yield client


def mark(folder: str) -> int:
    """One run more; how many there were."""
    Path(folder, f"run {len(os.listdir(folder))}").touch()
    return len(os.listdir(folder))


def third_time(folder: str, worth: int) -> tuple[int, int]:
    runs = mark(folder)
    if runs < 3:
        raise Reschedule
    return runs, worth


async def third_time_async(folder: str) -> int:
    await asyncio.sleep(0)
    return third_time(folder, 0)[0]


def with_child(folder: str, others: str) -> int:
    child: int = get_client().submit(mark, others).result(PATIENCE)
    third_time(folder, child)
    return child


def only_there(name: str) -> str:
    if get_worker().name != name:
        raise Reschedule
    return name


def never(folder: str) -> None:
    mark(folder)
    raise Reschedule("not here, not now")


@pytest.mark.parametrize("options", [{}, {"at_most_once": True}, {"retries": 0, "key": "named"}])
def test_it_runs_until_it_is_content(client: Client, tmp_path: Path, options: dict[str, Any]) -> None:
    """Also if it must not run twice by itself: this is its own wish; what depends on it waits."""
    (tmp_path / "runs").mkdir()
    options = {**options, **({"key": f"named {client.id}"} if "key" in options else {})}
    future = client.submit(third_time, str(tmp_path / "runs"), 5, **options)
    assert client.submit(sum, future).result(PATIENCE) == 8
    said = [what for _, _, what, _, _ in client.story(future.key)]
    asked = [line for line in said if "asked" in line]
    assert asked == ["asked to be run again, after 0.05 s", "asked to be run again, after 0.1 s"]
    assert not [line for line in said if "raised" in line]


def test_a_coroutine_may(client: Client, tmp_path: Path) -> None:
    """Like any task."""
    assert client.submit(third_time_async, str(tmp_path)).result(PATIENCE) == 3


def test_what_it_submitted_is_found_again(client: Client, tmp_path: Path) -> None:
    """It is the same task, so its children run once."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "others").mkdir()
    assert client.submit(with_child, str(tmp_path / "runs"), str(tmp_path / "others")).result(PATIENCE) == 1


def test_it_comes_to_another_worker(client: Client) -> None:
    """Idle workers are taken in turns, so one that isn't the right one is left."""
    for name in ("local-1", "local-1", "local-2", "local-2", "local-1"):
        assert client.submit(only_there, name).result(PATIENCE) == name


def test_one_that_is_never_content_can_be_cancelled(client: Client, tmp_path: Path) -> None:
    """Meanwhile its pauses get longer, and it says what it waits for."""
    future = client.submit(never, str(tmp_path))
    while len(os.listdir(tmp_path)) < 3:
        pass
    why = ""
    while "may run in" not in why:
        why = client.why(future.key)
    future.cancel()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
