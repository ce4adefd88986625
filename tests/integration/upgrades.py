"""A scheduler and its standby run on while their database gets a revision that a later version made."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

from alembic import command
from sqlalchemy import text

from futurebroker import Client
from futurebroker.persistence import revisions
from futurebroker.persistence.database import open_engine, reading, writing
from futurebroker.persistence.lookup import Lookup
from tests.integration.killable import PATIENCE, Cluster
from tests.integration.programs import FUTUREBROKER, lines_until, run

LIMIT = 50_000
LARGE = 200_000

#: a revision that only adds: what a version may do to a schema that older schedulers work with
LATER = '''"""More of everything."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{newest}"
branch_labels = None
depends_on = None

ADDED = (
    "lease", "journal", "checkpoints", "stored_values", "tasks", "runs", "events", "snapshots", "task_types",
    "datasets", "graphs",
)


def upgrade() -> None:
    for table in ADDED:
        op.add_column(table, sa.Column("later", sa.String(20), nullable=True))
        op.add_column(table, sa.Column("counted", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.create_table("later", sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("note", sa.Text))
    op.create_index("ix_tasks_later", "tasks", ["worker", "later"])
'''


def upgrade_to_later(folder: Path, url: str) -> None:
    """Upgrade as a later version's ``futurebroker db upgrade`` would."""
    versions = folder / "later"
    versions.mkdir(exist_ok=True)
    (versions / "r9999_later.py").write_text(LATER.format(newest=revisions.newest()))
    engine = open_engine(url)
    with writing(engine) as connection:
        config = revisions._config(connection)
        ours = Path(str(config.get_main_option("script_location"))) / "versions"
        config.set_main_option("path_separator", "os")
        config.set_main_option("version_locations", f"{ours}:{versions}")
        command.upgrade(config, "head")
    assert revisions.current(engine) == "9999"
    engine.dispose()


def checkpoints_after(url: str, at: float) -> int:
    """Complete checkpoints that were made after ``at``, by the database's clock."""
    engine = open_engine(url)
    with reading(engine) as connection:
        query = text("SELECT count(*) FROM checkpoints WHERE parts > 0 AND made_at > :at")
        found = connection.execute(query, {"at": at}).scalar_one()
    engine.dispose()
    return int(found)


def survive_an_upgrade(folder: Path, database: str, history: str) -> None:
    """Upgrade beneath a scheduler; it works on, folds, keeps its history, and its standby takes over."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(
            folder, stack, database=database, FUTUREBROKER_JOURNAL_LIMIT=str(LIMIT), FUTUREBROKER_HISTORY="true"
        )
        with cluster.client() as client:
            before = client.submit(bytes, LARGE, durable=True)
            assert len(before.result(PATIENCE)) == LARGE
            standby = cluster.start_standby("--standby")
            wait_for_standby(standby)
            for url in dict.fromkeys((database, history)):
                upgrade_to_later(folder, url)
            at = time.time()
            work_until_folded(client, database, at)
            look_up(client, history)
            client.publish_dataset(late=1)
            after = client.submit(bytes, LARGE + 1, durable=True)
            assert after.exception(PATIENCE) is None
            cluster.kill(cluster.worker)
            cluster.kill(cluster.scheduler)
            lines_until(standby, "stop with")
            assert [len(one.result(PATIENCE)) for one in (before, after)] == [LARGE, LARGE + 1]
            cluster.start_worker()
            assert client.submit(pow, 2, 10).result(PATIENCE) == 1024
            cluster.kill(standby)
        refused = run([*FUTUREBROKER, "scheduler", "--port", "0"], folder, **cluster.variables)
        assert refused.returncode == 1
        assert "its revision 9999 is not known to this version" in refused.stderr


def wait_for_standby(standby: subprocess.Popen[str]) -> None:
    """Until it has looked at the database and waits for the lease; its log says so."""
    assert standby.stderr is not None
    assert any("waiting to lead:" in line for line in standby.stderr)


def work_until_folded(client: Client, database: str, at: float) -> None:
    """Run tasks until the journal was folded after the moment ``at``; each answer is an event."""
    while not checkpoints_after(database, at):
        assert sum(client.gather(client.map(abs, range(500)))) == sum(range(500))


def look_up(client: Client, history: str) -> None:
    """What ends now gets into the history."""
    lookup = Lookup(history, "default")
    future = client.submit(pow, 3, 4, key="after-the-upgrade")
    assert future.result(PATIENCE) == 81
    while not lookup.search("key:after-the-upgrade")["total"]:
        client.submit(abs, -1).result(PATIENCE)  # a row takes a moment to be written
    lookup.close()
