"""Kept results in the database: looked up by key, written by who leads, gone when their time has come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from futurebroker.exceptions import DatabaseError, LeadershipLostError, SignatureError
from futurebroker.persistence import lease, revisions
from futurebroker.persistence.database import open_engine, writing
from futurebroker.persistence.models import kept_results
from futurebroker.persistence.results import ROWS_DELETED, ROWS_READ, KeptResults
from futurebroker.protocol.wire import Seal
from futurebroker.scheduler.shelf import ResultShelf
from futurebroker.scheduler.shelving import Drop, Seek, Shelve, Sought, Written

#: what statements should be made of least of all
KEYS = ["plain", "a'; DROP TABLE kept_results; --", "ü\n", "k" * 1000]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with its tables and a leader."""
    engine = open_engine(f"sqlite:///{tmp_path / 'd.db'}")
    revisions.upgrade(engine)
    assert lease.take(engine, "c", lease.Holder("me", "here", "there"), lambda _: False) == 1
    yield engine
    engine.dispose()


def opened(engine: Engine, epoch: int = 1, cluster: str = "c") -> KeptResults:
    """The rows of a cluster, as its leader has them."""
    return KeptResults(engine, cluster, epoch, Seal(b"secret"))


def exercise(engine: Engine, epoch: int) -> None:
    """What must be so at either database, for `engine` with the lease at ``epoch``."""
    results, later = opened(engine, epoch), time.time() + 60.0
    results.write([(key, later, key.encode()) for key in KEYS])
    results.write([("plain", later, b"anew")])
    assert sorted(results.read([*KEYS, "never"])) == sorted([b"anew", *(key.encode() for key in KEYS[1:])])
    assert opened(engine, epoch, "other").read(KEYS) == []
    zombie = opened(engine, epoch - 1)
    with pytest.raises(LeadershipLostError):
        zombie.write([("plain", later, b"zombie")])
    zombie.delete(["plain"])
    assert results.read(["plain"]) == [b"anew"]
    results.delete(["plain", "never"])
    assert results.read(["plain"]) == []
    many = [f"old-{number}" for number in range(ROWS_DELETED + 10)]
    results.write([(key, time.time() - 1.0, b"old") for key in many])
    assert results.read(many) == []
    assert [results.sweep(), results.sweep(), results.sweep()] == [ROWS_DELETED, 10, 0]
    assert results.count() == len(KEYS) - 1


def test_rows_are_written_found_and_swept(engine: Engine) -> None:
    """At SQLite; `tests/services` does the same at PostgreSQL."""
    exercise(engine, 1)


def test_more_keys_than_a_statement_takes(engine: Engine) -> None:
    """A group of thousands is asked for at once."""
    keys = [f"key-{number}" for number in range(2 * ROWS_READ + 1)]
    results = opened(engine)
    results.write([(key, time.time() + 60.0, key.encode()) for key in keys])
    assert sorted(results.read(keys)) == sorted(key.encode() for key in keys)


def test_a_row_that_was_altered_or_moved_is_refused(engine: Engine) -> None:
    """Whoever can write to the database must not own the executors."""
    results = opened(engine)
    results.write([("x", time.time() + 60.0, b"x"), ("y", time.time() + 60.0, b"y")])
    with writing(engine) as connection:
        body = kept_results.c.body
        some = connection.execute(kept_results.select()).first()
        assert some is not None
        connection.execute(update(kept_results).values({body: some.body}))
    with pytest.raises(SignatureError):
        results.read(["x", "y"])


class Failing:
    """Rows of a database that can't be used ``trouble`` times."""

    def __init__(self, trouble: int) -> None:
        self.trouble = trouble

    def _use(self) -> None:
        if self.trouble:
            self.trouble -= 1
            raise DatabaseError("d", "away")

    def write(self, rows: Any) -> None:
        """Can't."""
        self._use()

    def read(self, keys: list[str]) -> list[bytes]:
        """Has them all, when it can be used."""
        self._use()
        return [key.encode() for key in keys]

    def delete(self, keys: Any) -> None:
        """Can't."""
        self._use()

    def sweep(self) -> int:
        """Has nothing."""
        return 0

    def close(self) -> None:
        """Nothing to close."""


def heard(trouble: int, messages: list[Any], answers: int) -> list[Any]:
    """What the shelf says to these, until there are so many answers."""

    async def run() -> list[Any]:
        said: list[Any] = []
        enough = asyncio.Event()

        def say(words: list[Any]) -> None:
            said.extend(words)
            if len(said) >= answers:
                enough.set()

        shelf = ResultShelf(Failing(trouble), say)  # type: ignore[arg-type]
        shelf.tell(messages)
        await asyncio.wait_for(enough.wait(), 30.0)
        await shelf.close()
        await shelf.close()
        shelf.tell(messages)
        return said

    return asyncio.run(run())


def test_a_database_that_is_away_keeps_who_asks_waiting_and_results_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it can't be looked at doesn't mean that there is nothing."""
    monkeypatch.setattr("futurebroker.scheduler.shelf.AGAIN", 0.01)
    assert heard(1, [Shelve([("x", 1.0, b"x")])], 1) == [Written(["x"], str(DatabaseError("d", "away")))]
    assert heard(3, [Seek(7, ["x"])], 1) == [Sought(7, [b"x"])]
    assert heard(1, [Drop(["x"]), Seek(7, ["x"])], 1) == [Sought(7, [b"x"])]
