"""What the history's writer writes is found again; `tests/services` runs this at PostgreSQL, too."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from futurebroker.exceptions import DatabaseError, QueryError
from futurebroker.persistence.database import open_engine
from futurebroker.persistence.history import Writer
from futurebroker.persistence.lookup import SEVERAL, Lookup
from futurebroker.persistence.search import conditions
from futurebroker.protocol.history import Batch, Came, Happened, Stood, TypeTotals
from tests.unit.persistence.histories import BEGIN, ended, graphs_of, orders, sample


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A file that isn't there yet."""
    return f"sqlite:///{tmp_path / 'some.db'}"


@pytest.fixture
def lookup(url: str) -> Iterator[Lookup]:
    """A history with the sample in it."""
    writer = Writer(orders(url))
    writer.write(sample())
    writer.end()
    lookup = Lookup(url, "c")
    yield lookup
    lookup.close()


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("", ["d", "c", "b", "a"]),
        ("state:failed", ["c"]),
        ("state:done,cancelled", ["d", "b", "a"]),
        ("type:train", ["b", "a"]),
        ("type:*ra*", ["b", "a"]),
        ("-type:train", ["d", "c"]),
        ("worker:w2", ["b"]),
        ("client:ann run:last", ["d", "c", "b", "a"]),
        ("took:>1s", ["b"]),
        ("took:<=500ms", ["c", "a"]),
        ("error:KeyError", ["c"]),
        ("missing", ["c"]),
        ("MISSING", ["c"]),
        ('"no such"', []),
        (f"until:{BEGIN + 2:.0f}", ["a"]),
        (f"since:{BEGIN + 2:.0f}", ["d", "c", "b"]),
        ("100%", []),
    ],
)
def test_a_query_finds_what_it_says(lookup: Lookup, query: str, keys: list[str]) -> None:
    """Newest first; words are joined by "and"."""
    assert [row["key"] for row in lookup.search(query)["rows"]] == keys
    assert sorted(lookup.keys(query, 10)) == sorted(keys)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("stat:failed", "did you mean state:"),
        ("state:broken", "failed, done and cancelled"),
        ("state:running", "ask the scheduler"),
        ("since:yesterday", "1h (ago)"),
        ("took:long", "500ms"),
        ("run:first", "run:last"),
        ("type:", "say what after type:"),
        ("'open", "close the quotes"),
    ],
)
def test_a_query_that_can_t_be_understood_says_what_there_is(query: str, said: str) -> None:
    """It is typed by people, who can't know the words."""
    with pytest.raises(QueryError) as caught:
        conditions(query, BEGIN)
    assert said in str(caught.value)


def test_pages_follow_each_other_without_gap(lookup: Lookup) -> None:
    """Pages go on from a row and not from a count, so new tasks in between move nothing."""
    seen, after = [], None
    while True:
        page = lookup.search("", after, most=3)
        assert (page["total"], page["failed"]) == (4, 1)
        seen += [row["key"] for row in page["rows"]]
        after = page["next"]
        if after is None:
            break
    assert seen == ["d", "c", "b", "a"]


def test_a_task_s_story_has_all_that_is_known(lookup: Lookup) -> None:
    """Its attempts, what it was made from and what was made from it."""
    found = lookup.task("c")
    assert found is not None
    assert [one["key"] for one in found["inputs"]] == ["a", "b", "elsewhere"]
    assert [event["kind"] for event in found["events"]] == ["task-retried"]
    assert found["traceback"] == "Traceback: missing"
    assert [(note["worker"], note["arguments"], note["output"]) for note in found["notes"]] == [
        ("w1", "'x.csv', retries=1", "second try 🎈\n"), ("w2", "'x.csv'", "first try\0\n"),
    ]  # fmt: skip
    before = lookup.task("a")
    assert before is not None
    assert [one["key"] for one in before["outputs"]] == ["c"]
    assert lookup.task("nobody") is None


def test_the_stream_has_a_bar_a_task_where_there_is_room(lookup: Lookup) -> None:
    """Columns, times from the window's begin."""
    found = lookup.stream(BEGIN, BEGIN + 10)
    bars = sorted(zip(found["start"], found["length"], found["key"], (found["lanes"][lane] for lane in found["lane"])))
    assert bars == [(0.5, 0.5, "a", "w1 1"), (1.0, 1.5, "b", "w2 1"), (2.5, 0.25, "c", "w1 1")]
    assert sum(found["failed"]) == 1


def test_the_stream_joins_what_is_too_near_to_be_seen(url: str) -> None:
    """A hundred thousand tasks must not be a hundred thousand bars."""
    writer = Writer(orders(url))
    rows = [ended(f"k{n}", kind=f"t{n % 2}", started=BEGIN + n * 1e-4, duration=1e-4) for n in range(1000)]
    writer.write([Batch(rows)])
    lookup = Lookup(url, "c")
    found = lookup.stream(BEGIN, BEGIN + 100)
    assert (found["types"], found["count"], found["key"]) == ([SEVERAL], [1000], [""])
    lookup.close()
    writer.end()


def test_totals_count_what_was_left_out(lookup: Lookup) -> None:
    """Detail may be dropped; how much was done may not."""
    totals = {row["type"]: (row["finished"], row["failed"], row["cancelled"]) for row in lookup.types()}
    assert totals == {"train": (102, 0, 0), "load": (0, 1, 0), "eval": (0, 0, 1)}
    (run,) = lookup.runs()
    assert (run["finished"], run["failed"], run["cancelled"], run["dropped"]) == (102, 1, 1, 100)
    assert run["ended_at"] is not None
    about = lookup.about()
    assert about["tasks"] == 4
    assert about["bytes"] > 10_000


def test_throughput_figures_events_and_clients_come_in_their_order(lookup: Lookup) -> None:
    """What the pages plot."""
    parts = lookup.throughput(BEGIN, BEGIN + 4, pieces=4)
    assert [(part["finished"], part["failed"], part["cancelled"]) for part in parts] == [
        (0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1),
    ]  # fmt: skip
    assert lookup.figures(BEGIN, BEGIN + 9, "w1") == [{"at": BEGIN + 1, "worker": "w1", "memory": 5}]
    assert [row["kind"] for row in lookup.events()["rows"]] == ["worker-joined", "task-retried"]
    assert [row["kind"] for row in lookup.events("worker-*")["rows"]] == ["worker-joined"]
    assert [(row["client"], row["tasks"]) for row in lookup.clients(1)] == [("ann", 4)]
    worker = lookup.worker("w2")
    assert worker is not None
    assert [(row["type"], row["count"]) for row in worker["tasks"]] == [("train", 1)]
    assert lookup.worker("nobody") is None


def test_what_is_too_old_or_too_much_is_swept(url: str) -> None:
    """A laptop's disk must not fill in a year."""
    writer = Writer(orders(url, keep_rows=10))
    writer.write([Batch([ended(f"k{n}") for n in range(25)])])
    writer.sweep(now=True)
    lookup = Lookup(url, "c")
    assert [row["key"] for row in lookup.search("")["rows"]] == [f"k{n}" for n in reversed(range(15, 25))]
    writer.end()
    old = Writer(orders(url, keep_seconds=3600.0))
    old.prepare()
    old.sweep(now=True)
    assert lookup.search("")["rows"] == []
    lookup.close()
    old.end()


def test_a_writer_that_is_started_again_goes_on_with_its_run(url: str) -> None:
    """A run that seems to be two would have half the tasks each."""
    for _ in range(2):
        writer = Writer(orders(url))
        writer.write([Batch([ended("k")])])
        writer.end()
    lookup = Lookup(url, "c")
    (run,) = lookup.runs()
    assert run["finished"] == 2
    lookup.close()


def test_nothing_of_a_batch_is_written_when_a_part_can_t_be(url: str, tmp_path: Path) -> None:
    """It is written again as a whole, so half of it would be there twice."""
    writer = Writer(orders(url))
    writer.prepare()
    with contextlib.closing(sqlite3.connect(tmp_path / "some.db")) as other:
        other.execute("DROP TABLE events")
    batch = Batch([ended("k")], [Happened(BEGIN, "worker-joined", "w", "", "", "")], {"t": TypeTotals(1)})
    with pytest.raises(DatabaseError, match="futurebroker db upgrade"):
        writer.write([batch])
    engine = open_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM tasks")).scalar_one() == 0
    engine.dispose()
    writer.end()


def test_searches_use_an_index(url: str) -> None:
    """A history of ten million tasks is searched while a page loads."""
    writer = Writer(orders(url))
    writer.prepare()
    writer.end()
    engine = open_engine(url)
    wanted = {
        "SELECT id FROM tasks WHERE key = 'k'": "ix_tasks_key",
        "SELECT id FROM tasks WHERE type = 't' ORDER BY id DESC LIMIT 9": "ix_tasks_type",
        "SELECT id FROM tasks WHERE outcome = 'failed' AND outcome <> 'finished' ORDER BY id DESC": "ix_tasks_trouble",
        "SELECT id FROM tasks WHERE ended_at >= 5 ORDER BY ended_at LIMIT 1": "ix_tasks_ended",
        "SELECT id FROM tasks WHERE worker = 'w' ORDER BY id DESC LIMIT 9": "ix_tasks_worker",
        "SELECT id FROM tasks WHERE client = 'c' ORDER BY id DESC LIMIT 9": "ix_tasks_client",
        "SELECT name FROM workers WHERE cluster = 'c' ORDER BY joined_at DESC LIMIT 9": "ix_workers_joined",
    }
    with engine.connect() as connection:
        for statement, index in wanted.items():
            plan = " ".join(str(row) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")))
            assert index in plan, plan
    engine.dispose()


def test_names_that_are_too_long_or_odd_are_kept_as_they_fit(url: str) -> None:
    """A function may be called anything; the column has its bound."""
    writer = Writer(orders(url))
    writer.write([Batch([ended("k", kind="x" * 500)], [], {}, 0, [Stood(BEGIN, "", {"tasks": {"memory": 1}})])])
    lookup = Lookup(url, "c")
    (row,) = lookup.search("")["rows"]
    assert row["type"] == "x" * 200
    lookup.close()
    writer.end()


def test_workers_are_listed_with_when_they_came_and_went(url: str) -> None:
    """Also those that were there when a scheduler died; one that joins the next is the same as before."""
    about = {"executors": 2, "python": "3.11"}
    first = Writer(orders(url))
    first.write([Batch(workers=[Came(BEGIN + n, f"id{n}", f"w{n}", "host", about) for n in range(3)])])
    first.write([Batch(workers=[Came(BEGIN + 5, "id0", "w0", "host", about, gone=True)])])
    second = Writer(msgspec.structs.replace(orders(url), started_at=BEGIN + 9))
    second.write([Batch(workers=[Came(BEGIN + 10, "id1", "w1", "elsewhere", about)])])
    lookup = Lookup(url, "c")
    spans = {row["name"]: (row["joined_at"], row["left_at"]) for row in lookup.workers()}
    assert spans == {"w0": (BEGIN, BEGIN + 5), "w1": (BEGIN + 1, None), "w2": (BEGIN + 2, BEGIN + 9)}
    (row,) = lookup.workers(name="w1")
    assert (row["worker"], row["host"], row["about"]) == ("id1", "elsewhere", about)
    found = lookup.worker("w2")
    assert found is not None
    assert [life["left_at"] for life in found["lives"]] == [BEGIN + 9]
    other = Lookup(url, "other")
    assert other.workers() == []
    old = Writer(orders(url, keep_seconds=3600.0))
    old.prepare()
    old.sweep(now=True)
    assert [row["name"] for row in lookup.workers()] == ["w1"]
    for writer in (first, second, old):
        writer.end()
    for one in (lookup, other):
        one.close()


def test_graphs_are_listed_with_what_they_came_to(url: str) -> None:
    """Told again they are the same; ends add up, and moments are the first and the last."""
    writer = Writer(orders(url))
    lookup = Lookup(url, "c")
    graphs_of(writer, lookup)
    other = Lookup(url, "other")
    assert other.graphs() == []
    other.close()
    writer.end()
    again = Writer(msgspec.structs.replace(orders(url), started_at=BEGIN + 100))  # the next scheduler goes on with them
    again.write([Batch([ended("e", started=BEGIN + 101)], spans=[(0, "bb")])])
    assert [row["finished"] for row in lookup.graphs()] == [1, 3]
    assert len({row["run"] for row in lookup.graphs()}) == 1
    again.end()
    swept = Writer(orders(url, keep_rows=1))
    swept.prepare()
    swept.sweep(now=True)
    assert [row["graph"] for row in lookup.graphs()] == ["bb"]
    swept.end()
    lookup.close()
