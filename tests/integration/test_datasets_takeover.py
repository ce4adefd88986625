"""Stored datasets and durable results, where the journal is folded and a standby takes over; at SQLite files here."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from futurebroker import Client
from futurebroker.persistence.lookup import Lookup
from tests.integration.killable import PATIENCE, Cluster
from tests.integration.programs import lines_until
from tests.integration.test_datasets import LARGE, counted, total
from tests.integration.upgrades import checkpoints_after, wait_for_standby

LIMIT = 50_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def fold(client: Client, database: str, at: float) -> None:
    """Run tasks until the journal was folded after ``at``; each answer is an event."""
    while not checkpoints_after(database, at):
        assert sum(client.gather(client.map(abs, range(500)))) == sum(range(500))


def in_the_table(cluster: Cluster, database: str) -> list[tuple[str, str]]:
    """What the database's table has, and where it is kept."""
    lookup = Lookup(database, cluster.variables.get("FUTUREBROKER_CLUSTER", "default"))
    rows = [(row["name"], row["persist"]) for row in lookup.datasets()]
    lookup.close()
    return rows


def outlive_everybody(cluster: Cluster, database: str, persist: str) -> None:
    """Publish, fold, kill leader and worker, read with what is left, go on with a new worker, and tidy up."""
    marks = cluster.folder / "marks"
    with cluster.client() as client:
        arrays = [client.submit(counted, str(marks), number) for number in (3, 4)]
        client.publish_dataset(kept={"arrays": arrays, "data": client.scatter(bytes(LARGE))}, persist=persist)
        durable = client.submit(bytes, LARGE, durable=True)
        assert durable.exception(PATIENCE) is None
        fold(client, database, 0.0)
        standby = cluster.start_standby("--standby")
        wait_for_standby(standby)
        # What was published since is in no checkpoint.
        client.publish_dataset(client.submit(counted, str(marks), 5), name="late", persist=persist)
        cluster.kill(cluster.worker)
        cluster.kill(cluster.scheduler)
        lines_until(standby, "stop with")
        assert client.list_datasets() == ("kept", "late")
        assert in_the_table(cluster, database) == [("kept", persist), ("late", persist)]
        assert len(durable.result(PATIENCE)) == LARGE
    with cluster.client() as other:
        kept = other.get_dataset("kept")
        assert kept["data"].result(PATIENCE) == bytes(LARGE)
        assert [other.dataset_info(name)["stored"] for name in ("kept", "late")] == [True, True]
        cluster.start_worker()
        sums = other.gather([other.submit(total, one) for one in (*kept["arrays"], other.get_dataset("late"))])
        assert sums == [number * LARGE // 8 for number in (3, 4, 5)]
        fold(other, database, time.time())  # the one that took over folds as well
        del kept
        for name in other.list_datasets():
            other.unpublish_dataset(name)
        assert other.list_datasets() == ()
        assert in_the_table(cluster, database) == []
        cluster.kill(standby)
    assert marks.read_text() == "xxx"


@pytest.mark.parametrize("persist", ["database", "store"])
def test_what_is_stored_passes_to_a_standby(tmp_path: Path, persist: str) -> None:
    """What the folded journal says of it, and what lies beside it, must fit."""
    database = f"sqlite:///{tmp_path}/journal.db"
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path, stack, database=database, FUTUREBROKER_JOURNAL_LIMIT=str(LIMIT))
        outlive_everybody(cluster, database, persist)
