"""The history at PostgreSQL: written by COPY, found by the same queries as in a SQLite file."""

from __future__ import annotations

import pytest

from futurebroker.exceptions import DatabaseError
from futurebroker.persistence import revisions
from futurebroker.persistence.database import open_engine
from futurebroker.persistence.history import Writer
from futurebroker.persistence.lookup import Lookup
from futurebroker.protocol.history import Batch
from tests.services.databases import new_database, set_read_only
from tests.unit.persistence.histories import BEGIN, ended, graphs_of, orders, sample

pytestmark = pytest.mark.service("postgres")


def test_what_is_written_at_postgresql_is_found_there() -> None:
    """Each kind of question once; `tests/unit` has all of them."""
    with new_database() as url:
        writer = Writer(orders(url))
        with pytest.raises(DatabaseError, match="futurebroker db upgrade"):
            writer.write(sample())
        engine = open_engine(url)
        revisions.upgrade(engine)
        engine.dispose()
        writer.write(sample())
        writer.write([Batch([ended("nul\0inside")])])
        writer.sweep(now=True)
        writer.end()
        lookup = Lookup(url, "c")
        found = lookup.search("type:train took:>1s")
        assert [row["key"] for row in found["rows"]] == ["b"]
        assert lookup.keys("state:failed missing", 5) == ["c"]
        assert lookup.search("nulinside")["total"] == 1
        task = lookup.task("a")
        assert task is not None
        assert [one["key"] for one in task["outputs"]] == ["c"]
        assert len(lookup.stream(BEGIN, BEGIN + 10)["start"]) == 4
        assert sum(part["finished"] for part in lookup.throughput(BEGIN, BEGIN + 4)) == 3
        (run,) = lookup.runs()
        assert (run["finished"], run["dropped"]) == (103, 100)
        assert lookup.types(run["id"])[0]["type"] == "train"
        about = lookup.about()
        assert about["tasks"] == 5
        assert about["bytes"] > 1_000_000
        assert 0 < about["connections"] <= about["connections_most"]
        assert lookup.worker("w2") is not None
        assert lookup.figures(BEGIN, BEGIN + 9)
        again = Writer(orders(url))
        graphs_of(again, lookup)
        again.end()
        lookup.close()


def test_what_could_not_be_written_is_written_later() -> None:
    """Rows go past SQLAlchemy, by the driver's COPY, whose errors say the same."""
    with new_database() as url:
        engine = open_engine(url)
        revisions.upgrade(engine)
        engine.dispose()
        writer = Writer(orders(url))
        writer.prepare()
        set_read_only(url, on=True)
        for _ in range(2):
            with pytest.raises(DatabaseError, match="connect to the primary server"):
                writer.write(sample())
        set_read_only(url, on=False)
        writer.write(sample())
        writer.end()
        lookup = Lookup(url, "c")
        assert lookup.search("")["total"] == 4
        lookup.close()
