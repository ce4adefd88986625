"""The process that writes the history, as far as it goes on or ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from futurebroker.persistence import history, revisions
from futurebroker.persistence.database import open_engine, writing
from futurebroker.persistence.history import HEAD, Input, Writer, serve
from futurebroker.persistence.lookup import Lookup
from futurebroker.protocol.history import Batch
from tests.unit.persistence.histories import ended, orders

PATIENCE = 20.0


class Watched(Writer):
    """A writer that says when it has tried to write."""

    def __init__(self, url: str) -> None:
        super().__init__(orders(url))
        self.tried = threading.Event()

    def write(self, batches: list[Batch]) -> None:
        """See `Writer.write`."""
        try:
            super().write(batches)
        finally:
            self.tried.set()


def frame(batch: Batch) -> bytes:
    """As a scheduler sends it."""
    body = msgspec.msgpack.encode(batch)
    return HEAD.pack(len(body)) + body


def test_a_writer_whose_scheduler_died_while_its_database_was_away_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stay for ever, and try each second."""
    monkeypatch.setattr(history, "LAST_TRIES", 0.1)
    monkeypatch.setattr(history, "RETRY_EVERY", 0.01)
    reader, writer = os.pipe()
    watched = Watched("sqlite:////proc/nowhere/history.db")
    serving = threading.Thread(target=serve, args=(Input(reader), watched))
    serving.start()
    os.write(writer, frame(Batch([ended("k")])))
    assert watched.tried.wait(PATIENCE)
    os.write(writer, frame(Batch([ended("never read")])))
    assert serving.is_alive()
    os.close(writer)
    serving.join(PATIENCE)
    assert not serving.is_alive()
    os.close(reader)


def test_a_writer_that_comes_after_an_upgrade_writes_all_the_same(tmp_path: Path) -> None:
    """Where all cores are busy it comes late; and one that died is started again."""
    url = f"sqlite:///{tmp_path / 'some.db'}"
    engine = open_engine(url)
    revisions.upgrade(engine)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
        connection.execute(text("ALTER TABLE tasks ADD COLUMN more INTEGER NOT NULL DEFAULT 0"))
    engine.dispose()
    writer = Writer(orders(url))
    writer.write([Batch([ended("k")])])
    writer.end()
    lookup = Lookup(url, "c")
    assert [row["key"] for row in lookup.search("")["rows"]] == ["k"]
    lookup.close()
