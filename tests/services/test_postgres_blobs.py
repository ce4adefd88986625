"""What archives keep at PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from futurebroker.exceptions import LeadershipLostError
from futurebroker.persistence import lease, revisions
from futurebroker.persistence.blobs import PART, DatabaseBlobs
from futurebroker.protocol.wire import Seal

pytestmark = pytest.mark.service("postgres")

VALUE = bytes(range(256)) * 8192 + b"the rest"


def test_values_come_back_whole_and_only_the_leader_writes(postgres_engine: Engine) -> None:
    """As at SQLite: what differs between the two shows here."""
    revisions.upgrade(postgres_engine)
    epoch = lease.take(postgres_engine, "c", lease.Holder("me", "here", "there"), lambda _: False)
    blobs = DatabaseBlobs(postgres_engine, "c", epoch, Seal(b"secret"))
    for key in ("half", "ü\n'"):
        for part, start in enumerate(range(0, len(VALUE), PART)):
            if part < 2 or key != "half":
                blobs.write(key, len(VALUE), part, VALUE[start : start + PART])
    assert blobs.held() == [("ü\n'", len(VALUE))]
    assert blobs.read("half", 0) is None
    assert blobs.read("ü\n'", 2) == (len(VALUE), VALUE[2 * PART :])
    zombie = DatabaseBlobs(postgres_engine, "c", epoch - 1, Seal(b"secret"))
    zombie.delete(["ü\n'"])
    with pytest.raises(LeadershipLostError):
        zombie.write("new", 3, 0, b"abc")
    blobs.delete(["ü\n'"])
    assert blobs.held() == []
