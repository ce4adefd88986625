"""The table of published datasets: written with the journal's rows or not at all, and whatever publishers say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from futurebroker.exceptions import DatabaseError, LeadershipLostError
from futurebroker.persistence import lease, revisions
from futurebroker.persistence.database import open_engine
from futurebroker.persistence.datasets import listed, outdated
from futurebroker.persistence.journal import Journal
from futurebroker.protocol.wire import Seal

HOLDER = lease.Holder("me", "", "here")


def described(**more: Any) -> dict[str, Any]:
    """What a scheduler tells of a dataset."""
    return {
        "type": "dict", "size": 10, "parts": 2, "persist": "", "who": "ann@h", "client": "c", "program": "p",
        "published_at": 5.0, "graph": "", "graph_tasks": 0, "environment": {"python": "3.13"}, **more,
    }  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """The journal of a leader."""
    engine = open_engine(f"sqlite:///{tmp_path / 'j.db'}")
    revisions.upgrade(engine)
    epoch = lease.take(engine, "c", HOLDER, lambda process: False)
    journal = Journal(engine, "c", epoch, Seal(b"s" * 32))
    yield journal
    journal.close()


def names(journal: Journal) -> list[str]:
    """What the table has."""
    return [row["name"] for row in listed(journal.engine, "c")]


def test_datasets_change_with_the_row_that_says_so(journal: Journal) -> None:
    """Published, replaced and removed; what is told of them comes back."""
    journal.append(1, b"a", {"x": described(), "y": described(persist="store", graph="ab", graph_tasks=3)})
    x, y = listed(journal.engine, "c")
    assert x == {
        "name": "x", "type": "dict", "size": 10, "parts": 2, "persist": None, "who": "ann@h", "client": "c",
        "program": "p", "when": 5.0, "graph": None, "graph_tasks": 0, "environment": {"python": "3.13"},
    }  # fmt: skip
    assert (y["persist"], y["graph"], y["graph_tasks"]) == ("store", "ab", 3)
    journal.append(2, b"b", {"x": described(size=99), "y": None, "never": None})
    assert [(row["name"], row["size"]) for row in listed(journal.engine, "c")] == [("x", 99)]
    assert listed(journal.engine, "another") == []


def test_a_row_that_is_not_written_changes_no_dataset(journal: Journal) -> None:
    """Of a number that is taken, or by one who leads no more: the table and the journal agree."""
    journal.append(1, b"a", {"x": described()})
    with pytest.raises(LeadershipLostError):
        journal.append(1, b"b", {"x": None, "z": described()})
    assert names(journal) == ["x"]
    lease.release(journal.engine, "c", journal.epoch)
    lease.take(journal.engine, "c", HOLDER, lambda process: False)
    with pytest.raises(LeadershipLostError):
        journal.append(2, b"b", {"x": None})
    assert names(journal) == ["x"]
    assert journal.last() == 1


def test_a_dataset_that_can_not_be_written_keeps_its_row_from_being_written(journal: Journal) -> None:
    """Half of it would be worse than nothing; it is tried again."""
    with pytest.raises(DatabaseError) as caught:
        journal.append(1, b"a", {"x": described(parts=None)})
    assert not isinstance(caught.value, LeadershipLostError)
    assert journal.last() == 0
    journal.append(1, b"a", {"x": described()})
    assert names(journal) == ["x"]


def test_whatever_a_publisher_says_is_written(journal: Journal) -> None:
    """Words that are too long or that a database doesn't take must not stop the journal."""
    hostile = "\0\ud800'\";🙂" + "x" * 5000
    about = {"python\0": hostile}
    journal.append(1, b"a", {"x": described(type=hostile, who=hostile, program=hostile, environment=about)})
    (row,) = listed(journal.engine, "c")
    assert (len(row["type"]), len(row["program"])) == (200, 500)
    assert row["type"].startswith("?'\";🙂x")
    assert row["environment"] == about


def test_what_is_outdated_is_found(journal: Journal) -> None:
    """A scheduler of a version that doesn't know the table may have published and removed."""
    journal.append(1, b"a", {"same": described(), "gone": described(), "other": described()})
    wanted = {"same": described(), "other": described(size=11), "new": described()}
    changes = outdated(journal.engine, "c", wanted)
    assert changes == {"gone": None, "other": described(size=11), "new": described()}
    journal.append(2, b"b", changes)
    assert outdated(journal.engine, "c", wanted) == {}
    assert names(journal) == ["new", "other", "same"]


def test_a_great_many_are_removed_at_once(journal: Journal) -> None:
    """More than one statement takes names."""
    many = [f"d{number}" for number in range(1_200)]
    journal.append(1, b"a", dict.fromkeys(many, described()))
    assert len(names(journal)) == 1_200
    journal.append(2, b"b", dict.fromkeys(many[1:]))
    assert names(journal) == ["d0"]
