"""A PostgreSQL server that is gone for a while."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from futurebroker.persistence import revisions
from futurebroker.persistence.database import open_engine
from tests.chaos.proxy import Switchboard
from tests.integration.troubles import endure
from tests.services.databases import new_database

pytestmark = [pytest.mark.service("postgres"), pytest.mark.timeout(180)]


@pytest.mark.parametrize("how", ["cut", "hold"])
def test_a_server_that_is_away(tmp_path: Path, how: str) -> None:
    """It is restarted, or the network to it breaks, or it only doesn't answer."""
    with new_database() as url, Switchboard() as board:
        engine = open_engine(url)
        revisions.upgrade(engine)
        engine.dispose()
        place = urlsplit(url)
        wire = board.wire(str(place.hostname), place.port or 5432)
        through = url.replace(f":{place.port}/", f":{wire.port}/")

        @contextlib.contextmanager
        def away(_scheduler: subprocess.Popen[str]) -> Iterator[None]:
            getattr(wire, how)()
            yield
            wire.mend()

        said = endure(tmp_path, through, away)
    if how == "cut":
        assert "the journal can't be written" in said
        assert "the journal is written again" in said
