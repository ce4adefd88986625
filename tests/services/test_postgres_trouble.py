"""A PostgreSQL server that is gone for a while."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from futurebroker.persistence import lease, revisions
from futurebroker.persistence.database import open_engine
from futurebroker.persistence.lookup import Lookup
from tests.chaos.proxy import Switchboard
from tests.integration.troubles import TASKS, WHILE, endure
from tests.services.databases import new_database, set_read_only

pytestmark = [pytest.mark.service("postgres"), pytest.mark.timeout(180)]


@pytest.mark.parametrize(("how", "seconds"), [("cut", WHILE), ("hold", WHILE), ("cut", 60.0)])
def test_a_server_that_is_away(tmp_path: Path, how: str, seconds: float) -> None:
    """It is restarted, or the network to it breaks, or it only doesn't answer; for a moment, or a minute."""
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

        said = endure(tmp_path, through, away, seconds)
    if how == "cut":
        assert "the journal can't be written" in said
        assert "the journal is written again" in said


def test_a_server_that_may_only_be_read_for_a_while(tmp_path: Path) -> None:
    """It became a replica, or is full and an operator locked it. Sessions of that time must not be gone on with."""
    with new_database() as url:
        engine = open_engine(url)
        revisions.upgrade(engine)

        @contextlib.contextmanager
        def read_only(_scheduler: subprocess.Popen[str]) -> Iterator[None]:
            set_read_only(url, on=True)
            yield
            set_read_only(url, on=False)

        def all_is_written() -> None:
            lookup = Lookup(url, "default")
            while (found := lease.look(engine, "default")) is None or found.left <= 0:
                threading.Event().wait(0.05)  # it is renewed every other second
            while lookup.search("type:pow")["total"] < TASKS:
                threading.Event().wait(0.05)  # the history has a second's pause between attempts
            lookup.close()

        said = endure(tmp_path, url, read_only, lease.TERM + WHILE, then=all_is_written)
        engine.dispose()
    assert "connect to the primary server" in said
    assert "the journal is written again" in said
