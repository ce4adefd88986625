"""Datasets outlive the programs that publish them, the scheduler, and, where they are stored, all workers."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from futurebroker import Client
from futurebroker.cli.datasets import datasets
from futurebroker.config import Settings
from futurebroker.exceptions import DatasetNotStoredError, UnknownDatasetError
from futurebroker.web.app import create_app
from futurebroker.web.site import EXTENSION
from tests.chaos.ledger import Ledger
from tests.integration.gate import Gate, pass_gate
from tests.integration.killable import PATIENCE, SECRET, Cluster
from tests.integration.programs import FUTUREBROKER, ROOT, run

LARGE = 3_000_000


def counted(path: str, value: int) -> Any:
    """An array, and a mark for each time that it is computed."""
    with open(path, "a") as file:
        file.write("x")
    return np.full(LARGE // 8, value, dtype=np.int64)


def total(array: Any) -> int:
    return int(array.sum())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One that ends with the test."""
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack)


PUBLISH = """
def square(number):
    return number * number
futures = client.map(square, range(4))
client.publish_dataset(squares={"all": futures, "sum": client.submit(sum, futures)})
client.publish_dataset(b"z" * 1_000_000, name="a.large-plain_one")
import dask.array
client.datasets["array"] = client.persist(dask.array.arange(100, chunks=10) + 1)
"""


def test_another_program_reopens_what_one_published(cluster: Cluster) -> None:
    """With one line, after the publisher has ended."""
    cluster.program(PUBLISH)
    assert cluster.program('print(client.gather(client.get_dataset("squares")))') == "{'all': [0, 1, 4, 9], 'sum': 14}"
    assert cluster.program('print(len(client.datasets["a.large-plain_one"]))') == "1000000"
    assert cluster.program("print(*client.datasets)") == "a.large-plain_one array squares"
    assert cluster.program('print(client.compute(client.datasets["array"].sum()).result())') == "5050"
    the_command_lists_shows_and_removes(cluster)


def the_command_lists_shows_and_removes(cluster: Cluster) -> None:
    """In a terminal, of a cluster elsewhere."""
    command = [*FUTUREBROKER, "datasets", "--address", cluster.address]
    listed = run(command, ROOT, **cluster.variables).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["name", "a.large-plain_one", "array", "squares"]
    shown = run([*command, "show", "squares"], ROOT, **cluster.variables).stdout
    assert "type         dict" in shown
    assert "fingerprint" in shown
    removed = run([*command, "rm", "squares", "array", "a.large-plain_one"], ROOT, **cluster.variables)
    assert removed.stdout.splitlines() == ["unpublished squares", "unpublished array", "unpublished a.large-plain_one"]
    missing = run([*command, "show", "squares"], ROOT, **cluster.variables)
    assert (missing.returncode, "no dataset is published as 'squares'" in missing.stderr) == (1, True)
    assert run([*command, "list", "--json"], ROOT, **cluster.variables).stdout == "[]\n"


def test_a_killed_scheduler_comes_back_with_them(cluster: Cluster) -> None:
    """Names, small results and large ones that workers hold; what was unpublished stays away."""
    marks = cluster.folder / "marks"
    with cluster.client() as client:
        futures = [client.submit(counted, str(marks), number) for number in (1, 2)]
        client.publish_dataset(arrays=futures, gone=1, small=client.submit(pow, 2, 10))
        assert client.get_dataset("small").result(PATIENCE) == 1024
        client.gather(futures)
        client.unpublish_dataset("gone")
        cluster.kill(cluster.scheduler)
        cluster.start_scheduler()
        # Asked before the client knows that there is another scheduler, or after.
        assert client.list_datasets() == ("arrays", "small")
    with cluster.client() as other:
        assert [int(array[0]) for array in other.gather(other.get_dataset("arrays"))] == [1, 2]
        assert other.get_dataset("small").result(PATIENCE) == 1024
        assert other.dataset_info("arrays")["ready"] == 2
    assert marks.read_text() == "xx"


def test_what_is_published_is_told_while_no_scheduler_runs(cluster: Cluster) -> None:
    """The command and the site read the database: it has what was acknowledged, with all that is known of it."""
    with cluster.client() as client:
        parts = [client.submit(bytes, LARGE), client.submit(bytes, LARGE + 1)]
        client.publish_dataset(parts=parts, gone=1, small=client.submit(pow, 2, 10))
        assert [len(part) for part in client.gather(parts)] == [LARGE, LARGE + 1]
        client.unpublish_dataset("gone")
        cluster.kill(cluster.scheduler)

    def told(*words: str) -> Any:
        place = ["--address", cluster.address, "--timeout", "0.5s"]
        return CliRunner().invoke(datasets, [*place, *words], env=cluster.variables)

    listed = told("list", "--json")
    assert "its database has:" in listed.stderr
    large, small = json.loads(listed.stdout)
    assert (large["name"], small["name"]) == ("parts", "small")
    assert 2 * LARGE < large["size"] < 2 * LARGE + 20_000
    assert (large["parts"], large["graph_tasks"], large["persist"]) == (2, 2, None)
    shown = told("show", "parts").stdout
    assert f"graph        {large['graph']} of 2 tasks" in shown
    assert f"fingerprint  {large['environment']['fingerprint']}" in shown
    assert isinstance(told("show", "gone").exception, UnknownDatasetError)
    host, _, port = cluster.address.rpartition(":")
    database = cluster.variables["FUTUREBROKER_DATABASE_URL"]
    settings = Settings(host=host, port=int(port), database_url=database, secret=SECRET, web_token="t", history=False)
    app = create_app(settings)
    answer = app.test_client().get("/api/v1/datasets", headers={"Authorization": "Bearer t"})
    assert answer.get_json()["rows"] == [large, small]
    assert "; the database has these" in answer.get_json()["trouble"]
    app.extensions[EXTENSION].close()


@pytest.mark.parametrize("persist", ["database", "store"])
def test_what_is_stored_outlives_scheduler_and_workers(cluster: Cluster, persist: str) -> None:
    """Neither results nor scattered data are computed or sent again, and tasks can depend on them."""
    marks = cluster.folder / "marks"
    with cluster.client() as client:
        array = client.submit(counted, str(marks), 7)
        client.publish_dataset(kept={"array": array, "data": client.scatter(bytes(range(256)) * 4000)}, persist=persist)
        client.publish_dataset(plain=np.arange(100_000), persist=persist)
        info = client.dataset_info("kept")
        assert (info["persist"], info["stored"], info["ready"]) == (persist, True, 2)
        assert info["size"] > LARGE
    cluster.kill(cluster.worker)
    cluster.kill(cluster.scheduler)
    cluster.start_scheduler()
    with cluster.client() as client:
        kept = client.get_dataset("kept")
        assert kept["data"].result(PATIENCE) == bytes(range(256)) * 4000  # nobody but the archive is there
        assert client.get_dataset("plain").sum() == 4_999_950_000
        cluster.start_worker()
        assert client.submit(total, kept["array"]).result(PATIENCE) == 7 * LARGE // 8
        assert int(kept["array"].result(PATIENCE)[-1]) == 7
        del kept
        for name in client.list_datasets():
            client.unpublish_dataset(name)
    assert marks.read_text() == "x"


def test_a_publisher_waits_through_a_restart_until_it_is_stored(cluster: Cluster) -> None:
    """It comes back from `publish_dataset` when the task has ended and its result is written, not before."""
    with Gate() as gate, cluster.client() as client, ThreadPoolExecutor(1) as pool:
        future = client.submit(pass_gate, gate.port, Ledger(cluster.folder).path, "late", LARGE)
        arrival = gate.arrival()
        publishing = pool.submit(client.publish_dataset, future, name="late", persist="database")
        wait_for_name(client, "late")
        cluster.kill(cluster.scheduler)
        cluster.start_scheduler()
        assert client.dataset_info("late")["stored"] is False
        assert not publishing.done()
        arrival.release()
        publishing.result(PATIENCE)
        assert client.dataset_info("late")["stored"] is True


def wait_for_name(client: Client, name: str) -> None:
    """Until it is published; each answer of the scheduler is an event."""
    while name not in client.list_datasets():
        threading.Event().wait(0.01)


def test_an_altered_value_is_not_given_away(cluster: Cluster) -> None:
    """Who can write to the database can't make a program open what they like: the result is computed again."""
    marks = cluster.folder / "marks"
    with cluster.client() as client:
        client.publish_dataset(client.submit(counted, str(marks), 3), name="array", persist="database")
    cluster.kill(cluster.worker)
    cluster.kill(cluster.scheduler)
    with contextlib.closing(sqlite3.connect(cluster.database)) as connection, connection:
        (body,) = connection.execute("SELECT body FROM stored_values WHERE part = 1").fetchone()
        body = bytes([*body[:100], body[100] ^ 1, *body[101:]])
        connection.execute("UPDATE stored_values SET body = ? WHERE part = 1", (body,))
    cluster.start_scheduler()
    cluster.start_worker()
    with cluster.client() as client:
        assert int(client.get_dataset("array").result(PATIENCE)[0]) == 3
    assert marks.read_text() == "xx"


def fails() -> None:
    raise ValueError("no data today")


def test_what_can_not_be_stored_is_said(cluster: Cluster) -> None:
    """It stays published all the same, as dask publishes failed futures."""
    with cluster.client() as client:
        with pytest.raises(DatasetNotStoredError, match="no data today"):
            client.publish_dataset(client.submit(fails), name="bad", persist="database")
        assert client.dataset_info("bad")["failed"] == 1
        with pytest.raises(ValueError, match="no data today"):
            client.get_dataset("bad").result(PATIENCE)
        with pytest.raises(UnknownDatasetError):
            client.dataset_info("worse")
