"""An older scheduler works on while its SQLite files are upgraded; `tests/services` does the same at PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.upgrades import survive_an_upgrade

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_running_scheduler_survives_an_additive_upgrade(tmp_path: Path) -> None:
    """A deployment upgrades its database first, while what it has still runs."""
    survive_an_upgrade(tmp_path, f"sqlite:///{tmp_path}/journal.db", f"sqlite:///{tmp_path}/journal-history.db")
