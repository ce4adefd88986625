"""Kept results at PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from futurebroker.persistence import lease, revisions
from tests.unit.persistence.test_results import exercise

pytestmark = pytest.mark.service("postgres")


def test_rows_are_written_found_and_swept(postgres_engine: Engine) -> None:
    """As at SQLite: what differs between the two shows here."""
    revisions.upgrade(postgres_engine)
    exercise(postgres_engine, lease.take(postgres_engine, "c", lease.Holder("me", "here", "there"), lambda _: False))
