"""Looking into a running cluster, as a user does: with real processes, whose tasks are seen while they run."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client, LocalCluster
from tests.integration import celery_tasks


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A worker with two executors."""
    with LocalCluster(executors_per_worker=2, threads_per_worker=1) as cluster:
        yield cluster


def spin_until(path: str) -> int:
    """Uses the CPU until the file is there; what it does has a name in profiles."""
    rounds = 0
    while not os.path.exists(path):
        rounds += busy_inside()
    return rounds


def busy_inside() -> int:
    return sum(range(2000)) > 0


def fails_once(path: str) -> int:
    if not os.path.exists(path):
        Path(path).touch()
        raise ValueError("the first time")
    return 7


def test_what_runs_shows_its_stack(client: Client, tmp_path: Path) -> None:
    """The question of somebody whose task doesn't end: where is it?"""
    future = client.submit(spin_until, str(tmp_path / "end"))
    stacks: dict[str, list[str]] = {}
    while not any("in spin_until" in line for line in stacks.get(future.key, ())):
        stacks = client.call_stack([future])
    assert list(stacks) == [future.key]
    assert client.call_stack(["another"]) == {}
    (tmp_path / "end").touch()
    assert future.result(30) is not None
    while client.call_stack():  # its executor may not be back from reporting it
        pass


def test_a_profile_says_where_the_time_went(client: Client, tmp_path: Path) -> None:
    """By the name of tasks and what they call; the executors are asked until they have seen enough."""
    path = tmp_path / "end"
    future = client.submit(spin_until, str(path))
    tree: dict[str, Any] = {"count": 0}
    while "busy_inside" not in json.dumps(tree):
        tree = client.profile(key="spin_until")
    path.touch()
    future.result(30)
    (task,) = tree["children"]
    assert task["name"] == "spin_until"
    assert task["count"] >= max(child["count"] for child in task["children"])
    page = tmp_path / "profile.html"
    client.profile(filename=page)
    assert "busy_inside" in page.read_text()
    assert set(client.profile(merge_workers=False)) == set(client.nthreads())
    assert client.profile(key="no such task")["count"] == 0


def test_the_stream_holds_the_ends_of_tasks_within_a_block(client: Client) -> None:
    """And nothing is recorded outside of one."""
    client.gather(client.map(abs, range(5)))
    with client.get_task_stream() as stream:
        client.gather(client.map(abs, range(7)))
        failed = client.submit(int, "x")
        assert isinstance(failed.exception(30), ValueError)
    assert [end["status"] for end in stream.data].count("finished") == 7
    (error,) = [end for end in stream.data if end["status"] == "error"]
    assert error["key"] == failed.key
    assert all(end["start"] <= end["stop"] and end["worker"] in client.nthreads() for end in stream)
    client.gather(client.map(abs, range(3)))
    assert len(stream) == 8


def test_a_story_tells_of_failures_and_retries(client: Client, tmp_path: Path) -> None:
    """What isn't usual is kept, and the last line says where the task stands."""
    future = client.submit(fails_once, str(tmp_path / "mark"), retries=2)
    assert future.result(30) == 7
    lines = client.story(future)
    assert [line[1] for line in lines] == [future.key] * len(lines)
    assert "raised ValueError, retry 1: the first time" in lines[0][2]
    assert "finished" in lines[-1][2]
    assert client.story("unheard of") == []


def test_versions_are_compared(client: Client) -> None:
    """All sides are of one installation here; a difference is named in a table."""
    found = client.get_versions(check=True, packages=["click"])
    assert found["client"] == next(iter(found["workers"].values()))
    assert found["client"]["click"]
    assert found["scheduler"]["python"] == found["client"]["python"]


def test_events_are_kept_by_topic(client: Client) -> None:
    """With the time, under the topic and under "all"."""
    before = time.time()
    client.log_event("deploy", {"version": 3})
    client.log_event(["a", "b"], "both")
    ((at, event),) = client.get_events("deploy")
    assert event == {"version": 3}
    assert abs(at - before) < 5
    assert client.get_events("a")[0][1] == client.get_events("b")[0][1] == "both"
    actions = [event for _, event in client.get_events("all") if isinstance(event, dict)]
    assert {"action": "add-worker", "worker": "local-1"} in actions


def test_logs_come_from_all_processes(tmp_path: Path) -> None:
    """Without a shell on their machines."""
    with LocalCluster(executors_per_worker=1, silence_logs="info") as cluster, Client(cluster) as client:
        logs = client.get_logs()
        assert set(logs) == {"scheduler", *client.nthreads()}
        assert any("worker local-1 joined" in line for _, line in logs["scheduler"])
        assert client.get_scheduler_logs(n=1) == logs["scheduler"][-1:]


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_dump_holds_every_task(client: Client, tmp_path: Path, format: str) -> None:
    """For a report of an error; in pages, so that many tasks fit."""
    futures = client.map(abs, range(2500))
    client.gather(futures)
    path = client.dump_cluster_state(str(tmp_path / "dump"), format)
    data = gzip.decompress(Path(path).read_bytes())
    if format == "json":
        state = json.loads(data)
        assert set(state["tasks"]) >= {future.key for future in futures}
        assert state["tasks"][futures[0].key]["state"] == "memory"
        assert state["info"]["workers"]
    else:
        assert futures[-1].key.encode() in data
    with pytest.raises(ValueError, match="format="):
        client.dump_cluster_state(format="yaml")


def test_notebooks_show_tables() -> None:
    """Client, cluster, worker and future say what they are, with their texts escaped."""
    with LocalCluster(processes=False, executors_per_worker=1) as cluster, Client(cluster) as client:
        _show_tables(cluster, client)


def _show_tables(cluster: LocalCluster, client: Client) -> None:
    future = client.submit(abs, -1, key="<b>")
    future.result(30)
    things: list[Any] = [client, cluster, future, *cluster.workers.values()]
    for thing in things:
        assert thing._repr_html_().startswith("<")
    assert "&lt;b&gt;" in future._repr_html_()


def talk(path: str, token: str) -> int:
    """Prints, then runs until it may end."""
    print("so far")
    print("so bad", file=sys.stderr)
    logging.getLogger("mine").warning("so it is logged")
    return spin_until(path)


def test_what_a_task_prints_and_got_is_seen_while_it_runs_and_after(client: Client, tmp_path: Path) -> None:
    """Nobody should have to find the worker's terminal to see where a task is."""
    end = tmp_path / "end"
    future = client.submit(talk, str(end), token="abc")
    seen: dict[str, Any] = {}
    while "so it is logged" not in seen.get("output", ""):
        seen = client.output(future).get(future.key, {})
    assert seen["output"].startswith("so far\nso bad\n")
    assert seen["arguments"] == f"{str(end)!r}, token=***"
    end.touch()
    rounds = future.result(30)
    assert client.output(future.key) == {future.key: {**seen, "result": str(rounds)}}
    note = client._ask("task", future.key)["note"]
    assert note["worker"] in {worker["name"] for worker in client.scheduler_info()["workers"].values()}
    short = client.submit(abs, -1)
    assert short.result(30) == 1
    assert client._ask("task", short.key)["note"] is None
    assert client.output(short, "nobody-1") == {}


def test_settings_keep_output_and_arguments_to_the_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where data is private, nothing of it is shown to who looks at tasks."""
    monkeypatch.setenv("FUTUREBROKER_TASK_OUTPUT", "false")
    monkeypatch.setenv("FUTUREBROKER_TASK_ARGUMENTS", "no")
    (tmp_path / "end").touch()
    with LocalCluster(executors_per_worker=1) as cluster, Client(cluster) as client:
        future = client.submit(talk, str(tmp_path / "end"), token="abc")
        failed = client.submit(fails_once, str(tmp_path / "other"))
        assert future.result(30) == 0
        assert failed.exception(30) is not None
        assert client.output(future, failed) == {}


async def murmur(name: str) -> str:
    """Prints between two steps of an event loop that it shares."""
    await asyncio.sleep(0)
    print(name, "murmurs")
    await asyncio.to_thread(print, name, "shouts")
    return name


def shout(name: str) -> list[Any]:
    """Returns what refers to standard output."""
    print(name, "shouts", end="", flush=True)
    return [sys.stdout]


def test_each_task_is_told_its_own_output(client: Client) -> None:
    """Coroutines share a thread, and threads that a task waits for are its own."""
    futures = client.map(murmur, [f"n{number}" for number in range(20)])
    names = client.gather(futures)
    told = client.output(*futures)
    assert {told[future.key]["output"] for future in futures} == {f"{n} murmurs\n{n} shouts\n" for n in names}
    shouted = client.submit(shout, "h")
    assert shouted.result(30) == [sys.stdout]
    assert client.output(shouted)[shouted.key]["output"] == "h shouts"


def test_tasks_of_celery_apps_tell_their_arguments_too(client: Client) -> None:
    """As Flower shows them: those of the call, by the id of its result."""
    celery_tasks.app.use_client(client)
    try:
        failed = celery_tasks.fail.delay(7, "b")
        with pytest.raises(celery_tasks.MyError):
            failed.get(timeout=30)
        assert client.output(failed.id) == {failed.id: {"arguments": "7, 'b'", "result": "", "output": ""}}
    finally:
        celery_tasks.app._sender = None
