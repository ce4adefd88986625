"""The schema's revisions at PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from futurebroker.persistence import revisions
from tests.integration.upgrades import survive_an_upgrade

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


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_running_scheduler_survives_an_additive_upgrade(tmp_path: Path, postgres_engine: Engine) -> None:
    """The release phase of a deployment upgrades the database while the dynos of the former version still run."""
    revisions.upgrade(postgres_engine)
    url = postgres_engine.url.render_as_string(hide_password=False)
    survive_an_upgrade(tmp_path, url, url)
