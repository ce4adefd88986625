"""A standby at PostgreSQL; as at SQLite in `tests/integration`, but that nobody can see whether the leader is dead."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from futurebroker.persistence import revisions
from futurebroker.persistence.database import open_engine
from tests.integration.takeovers import kill, stand_still, take_over
from tests.services.databases import new_database

pytestmark = [pytest.mark.service("postgres"), pytest.mark.timeout(180)]


@pytest.mark.parametrize(("stop", "code"), [(kill, -signal.SIGKILL), (stand_still, 1)])
def test_a_standby_takes_over(tmp_path: Path, stop: object, code: int) -> None:
    """And a leader that only stood still can write nothing afterwards."""
    assert callable(stop)
    with new_database() as url:
        engine = open_engine(url)
        revisions.upgrade(engine)
        engine.dispose()
        ended, said = take_over(tmp_path, url, stop)
    assert ended == code
    if code == 1:
        assert "another scheduler leads" in said
