"""Everything at RabbitMQ and PostgreSQL, as in a deployment, with a standby."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import pytest
from sqlalchemy import Engine

from futurebroker.persistence import revisions
from futurebroker.persistence.lookup import Lookup
from tests.integration.killable import Cluster
from tests.integration.test_datasets_takeover import LIMIT, outlive_everybody

pytestmark = [pytest.mark.service("rabbitmq"), pytest.mark.service("postgres"), pytest.mark.timeout(240)]


@pytest.mark.slow
def test_a_deployment_outlives_its_leader_and_its_workers(
    tmp_path: Path, rabbitmq_url: str, postgres_engine: Engine
) -> None:
    """Journal, checkpoints, stored values and history in one database; nothing of it on a disk of ours."""
    revisions.upgrade(postgres_engine)
    database = postgres_engine.url.render_as_string(hide_password=False)
    name = f"test-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        cluster = Cluster(
            tmp_path, stack, broker=rabbitmq_url, database=database, FUTUREBROKER_CLUSTER=name,
            FUTUREBROKER_JOURNAL_LIMIT=str(LIMIT), FUTUREBROKER_HISTORY="true",
        )  # fmt: skip
        outlive_everybody(cluster, database, "database")
    with contextlib.closing(Lookup(database, name)) as lookup:
        assert len(lookup.runs()) == 2
        assert len(lookup.workers()) == 2
        assert lookup.search("type:total run:last")["total"] == 3
    assert not [path for path in tmp_path.iterdir() if path.name != "marks"]
