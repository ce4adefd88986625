"""Two schedulers that want to lead at the same moment, at PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, insert, text

from futurebroker.exceptions import DatabaseInUseError
from futurebroker.persistence import lease, models, revisions
from futurebroker.persistence.database import reading, writing

pytestmark = pytest.mark.service("postgres")

PATIENCE = 20.0
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_the_first_lease_of_a_cluster_is_taken_once(postgres_engine: Engine) -> None:
    """There is no row yet to wait for; who comes second is told who leads, and not of a duplicate key."""
    revisions.upgrade(postgres_engine)
    with ThreadPoolExecutor(1) as pool:
        with writing(postgres_engine) as connection:
            row = {"epoch": 1, "holder": "first", "process": "a b 7 c", "address": "there", "renewed_at": 0.0}
            connection.execute(insert(models.lease).values(cluster="c", expires_at=4e9, **row))
            second = pool.submit(lease.take, postgres_engine, "c", lease.Holder("second", "", ""), lambda _: False)
            while not waiting(postgres_engine):
                threading.Event().wait(0.01)
        with pytest.raises(DatabaseInUseError, match=r"process 7, at there.* leads cluster c"):
            second.result(PATIENCE)


def waiting(engine: Engine) -> bool:
    """Whether a statement waits for another's end."""
    with reading(engine) as connection:
        return bool(connection.execute(text(WAITING)).scalar_one())
