"""The schema's revisions at PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from futurebroker.persistence import revisions

KNOWN = [one.name for one in revisions.revisions()]

pytestmark = pytest.mark.service("postgres")


@pytest.mark.parametrize("revision", KNOWN)
def test_every_revision_is_upgraded_and_taken_back(postgres_engine: Engine, revision: str) -> None:
    """As at SQLite: what differs between the two shows here."""
    revisions.upgrade(postgres_engine, revision)
    revisions.upgrade(postgres_engine)
    assert revisions.current(postgres_engine) == KNOWN[-1]
    assert revisions.differences(postgres_engine) == []
    revisions.downgrade(postgres_engine, revision)
    revisions.downgrade(postgres_engine, "base")
    assert revisions.current(postgres_engine) is None
