"""Published datasets in the machine: who keeps what, who is told what, and what a journal brings back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import AnyFact
from futurebroker.scheduler import catalog, checkpoint, datasets, storing
from futurebroker.scheduler.commands import ClientGone, Send, Tick, WorkerLost, WorkerSaid, WorkersBack
from futurebroker.scheduler.state import SchedulerState
from tests.unit.scheduler.play import BIG, CODE, LARGE, Play, finished, submit, tell
from tests.unit.scheduler.projection import projection, replayed
from tests.unit.scheduler.test_leases import answers

ARCHIVE = "archive:database"


def publish(number: int, name: str, *keys: str, op: str = "", override: bool = False, **entry: Any) -> m.Ask:
    """Publish something with futures of these keys in it."""
    whole = {"name": name, "item": name.encode(), "keys": list(keys), **entry}
    return m.Ask(number, "dataset_publish", {"entries": [whole], "op": op, "override": override})


def get(number: int, name: str) -> m.Ask:
    """What a client asks that opens a dataset."""
    return m.Ask(number, "dataset_get", name)


def unpublish(number: int, name: str, op: str = "") -> m.Ask:
    """Remove a dataset."""
    return m.Ask(number, "dataset_unpublish", {"name": name, "op": op})


def info(state: SchedulerState, name: str) -> dict[str, Any]:
    """What people are told."""
    return datasets.described(state, [name])[0]


def sent(commands: list[Any], peer: str) -> list[m.Message]:
    """The messages for one peer."""
    return [one.message for one in commands if isinstance(one, Send) and one.peer == peer]


@pytest.fixture
def play() -> Play:
    """With a worker and an archive."""
    play = Play("w")
    storing.open_archive(play.state, "database")
    return play


def test_futures_in_a_dataset_outlive_its_publisher(play: Play) -> None:
    """Unfinished ones are computed, and another client gets at them."""
    play.ann(submit("x"), submit("y", "x"), publish(1, "d", "y"))
    play.handle(ClientGone("ann"))
    play.worker("w", finished("x", 1), finished("y", 2, None))
    assert play.states()["y"] == "memory"
    assert answers(play.bob(get(1, "d"))) == [("bob", 1, {"item": b"d", "data": "", "type": ""})]
    held = m.Held("y", LARGE, [("w", "/y")])
    assert play.bob(m.Want(["y"])) == [tell("bob", m.KeyFinished("y", None, held))]
    assert answers(play.bob(m.Release(["y"]), unpublish(2, "d"))) == [("bob", 2, {})]
    play.now = datasets.TAKING
    play.handle(Tick())
    assert (play.states(), play.state.holders, play.state.shared.kept) == ({}, {}, {})


def test_who_was_just_given_a_dataset_gets_what_is_in_it(play: Play) -> None:
    """Although it is unpublished before that client says that it wants it."""
    play.ann(submit("x"), publish(1, "d", "x"), m.Release(["x"]))
    play.bob(get(1, "d"))
    play.ann(unpublish(2, "d"))
    play.bob(m.Want(["x"]))
    play.now = datasets.TAKING
    play.handle(Tick())
    assert play.states() == {"x": "processing"}


def test_a_name_is_taken_until_it_is_overridden(play: Play) -> None:
    """What only the former needed goes; what both need stays."""
    play.ann(submit("x"), submit("y"), publish(1, "d", "x", "y"))
    assert answers(play.bob(publish(1, "d"))) == [("bob", 1, {"duplicate": "d"})]
    assert answers(play.ann(publish(2, "d", "y", override=True))) == [("ann", 2, {})]
    play.ann(m.Release(["x", "y"]))
    assert list(play.states()) == ["y"]
    play.ann(publish(3, "d", override=True))
    assert play.states() == {}


def test_several_are_published_together_or_not_at_all(play: Play) -> None:
    """A duplicate among them keeps the others out."""
    play.ann(publish(1, "b"))
    entries = [{"name": name, "item": b"."} for name in "abc"]
    asked = m.Ask(2, "dataset_publish", {"entries": entries})
    assert answers(play.ann(asked)) == [("ann", 2, {"duplicate": "b"})]
    assert list(play.state.published.datasets) == ["b"]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"name": "../etc"}, "is no name"),
        ({"name": "d" * 201}, "is no name"),
        ({"name": "d\n"}, "is no name"),
        ({"name": "d", "keys": ["z"]}, "z, which was cancelled, released or lost"),
        ({"name": "d", "item": b""}, "has no value"),
        ({"name": "d", "item": bytes(datasets.ITEM_LIMIT + 1)}, "too large"),
        ({"name": "d", "about": {"who": "w" * datasets.ABOUT_LIMIT}}, "too much"),
        ({"name": "d", "keys": ["z"] * (datasets.KEYS_LIMIT + 1)}, "may have 50,000"),
        ({"name": "d", "persist": "cloud"}, "persist= takes"),
        ({"name": "d", "persist": "store"}, "--journal process"),
        ({"name": 1}, "Expected `str`"),
    ],
)
def test_what_can_not_be_is_refused(play: Play, entry: dict[str, Any], fault: str) -> None:
    """Whoever sends it; nothing is published then, nor noted."""
    facts: list[AnyFact] = []
    play.state.facts = facts
    (command,) = play.ann(m.Ask(1, "dataset_publish", {"entries": [{"item": b".", **entry}]}))
    assert fault in command.message.error
    assert (play.state.published.datasets, facts) == ({}, [])


def test_unknown_names_are_said(play: Play) -> None:
    """A get that names no text is answered as well."""
    commands = play.ann(get(1, "d"), unpublish(2, "d"), m.Ask(3, "dataset_get", {"odd": 1}))
    unknown = [("ann", 1, "d"), ("ann", 2, "d"), ("ann", 3, {"odd": 1})]
    assert answers(commands) == [(client, number, {"unknown": name}) for client, number, name in unknown]


def test_requests_that_come_again_get_the_same_answer(play: Play) -> None:
    """Who met a restarted scheduler asks once more."""
    assert answers(play.ann(publish(1, "d", op="p"), publish(2, "d", op="p"))) == [("ann", 1, {}), ("ann", 2, {})]
    assert answers(play.ann(unpublish(3, "d", "u"), unpublish(4, "d", "u"))) == [("ann", 3, {}), ("ann", 4, {})]


# -- storing ---------------------------------------------------------------------------------------------------------


def test_a_publisher_is_told_when_all_is_stored(play: Play) -> None:
    """What the scheduler keeps itself needs no archive; the rest is fetched by it when it is there."""
    commands = play.ann(submit("x"), submit("y"), publish(1, "d", "x", "y", persist="database"))
    assert answers(commands) == []
    assert answers(play.worker("w", finished("x", 1))) == []
    commands = play.worker("w", finished("y", 2, None))
    assert sent(commands, ARCHIVE) == [m.Replicate(m.Held("y", LARGE, [("w", "/y")]))]
    assert info(play.state, "d")["stored"] is False
    assert answers(play.worker(ARCHIVE, m.Stored("y", LARGE, ""))) == [("ann", 1, {})]
    assert info(play.state, "d")["stored"] is True
    play.handle(WorkerLost("w"))
    assert play.states() == {"x": "memory", "y": "memory"}


def test_the_archive_fetches_and_gives_by_way_of_the_scheduler(play: Play) -> None:
    """Workers are asked first by who wants what both have; with the last of them gone, the archive is."""
    play.ann(submit("x"))
    play.worker("w", finished("x", 1, None))
    play.ann(publish(1, "d", "x", persist="database"))
    asked = m.DataWanted(1, "x", 0, 10, "w", ARCHIVE)
    assert play.worker(ARCHIVE, m.DataWanted(1, "x", 0, 10)) == [Send("w", asked)]
    part = m.DataPart(1, "x", 0, LARGE, b"0123456789", ARCHIVE)
    assert play.worker("w", part) == [Send(ARCHIVE, part)]
    play.worker(ARCHIVE, m.Stored("x", LARGE, ""))
    assert play.ann(m.DataWanted(2, "x", 0, 10)) == [Send("w", m.DataWanted(2, "x", 0, 10, "w", "ann"))]
    play.handle(WorkerLost("w"))
    wanted = m.DataWanted(3, "x", 0, 10, ARCHIVE, "ann")
    assert play.ann(m.DataWanted(3, "x", 0, 10)) == [Send(ARCHIVE, wanted)]
    assert play.worker(ARCHIVE, m.DataPart(3, "x", 0, LARGE, b"..", "ann")) == [
        tell("ann", m.DataPart(3, "x", 0, LARGE, b"..", "ann"))
    ]


def test_tasks_elsewhere_take_stored_inputs(play: Play) -> None:
    """An archive holds, and is never given work."""
    play.ann(submit("x"), publish(1, "d", "x", persist="database"))
    play.worker("w", finished("x", 1, None))
    play.worker(ARCHIVE, m.Stored("x", LARGE, ""))
    play.handle(WorkerLost("w"))
    play.join("v")
    commands = play.ann(submit("y", "x"))
    assert play.run("v", "y", 2, m.Held("x", LARGE, [(ARCHIVE, "")])) in commands


def test_unpublishing_frees_what_was_stored(play: Play) -> None:
    """In the archive as at workers; also what comes to be stored only after that."""
    play.ann(submit("x"), publish(1, "d", "x", persist="database"), m.Release(["x"]))
    play.worker("w", finished("x", 1, None))
    play.worker(ARCHIVE, m.Stored("x", LARGE, ""))
    assert sent(play.ann(unpublish(2, "d")), ARCHIVE) == [m.Free(["x"])]
    play.ann(submit("y"), publish(3, "e", "y", persist="database"), m.Release(["y"]))
    play.worker("w", finished("y", 2, None))
    commands = play.ann(unpublish(4, "e"))
    assert answers(commands) == [
        ("ann", 3, {"name": "e", "trouble": "it was unpublished or replaced before it was stored"}),
        ("ann", 4, {}),
    ]
    assert sent(play.worker(ARCHIVE, m.Stored("y", LARGE, "")), ARCHIVE) == [m.Free(["y"])]


def test_what_can_not_be_written_is_said_and_tried_again(play: Play) -> None:
    """At once when a holder went away, after a while when the disk is full."""
    play.ann(submit("x"), publish(1, "d", "x", persist="database"))
    play.worker("w", finished("x", 1, None))
    assert answers(play.worker(ARCHIVE, m.NotStored("x", ""))) == []
    play.now = storing.AGAIN
    assert sent(play.handle(Tick()), ARCHIVE) == [m.Replicate(m.Held("x", LARGE, [("w", "/x")]))]
    trouble = {"name": "d", "trouble": "the disk is full"}
    assert answers(play.worker(ARCHIVE, m.NotStored("x", "the disk is full"))) == [("ann", 1, trouble)]
    assert info(play.state, "d")["trouble"] == "the disk is full"
    play.now += storing.AGAIN_AFTER_TROUBLE
    assert len(sent(play.handle(Tick()), ARCHIVE)) == 1
    play.worker(ARCHIVE, m.Stored("x", LARGE, ""))
    assert (info(play.state, "d")["stored"], info(play.state, "d")["trouble"]) == (True, "")


def test_failed_and_cancelled_tasks_end_the_wait(play: Play) -> None:
    """A publisher doesn't wait for what can't come."""
    play.ann(
        submit("x"), submit("y"), publish(1, "d", "x", persist="database"), publish(2, "e", "y", persist="database")
    )
    failed = play.worker("w", m.Erred("x", 1, m.Failure("ValueError", "no", "", "x", "w")))
    assert ("ann", 1, {"name": "d", "trouble": "x failed: ValueError: no"}) in answers(failed)
    cancelled = play.bob(m.Cancel(["y"], force=True))
    assert ("ann", 2, {"name": "e", "trouble": "y was cancelled"}) in answers(cancelled)


def test_a_damaged_value_is_computed_and_stored_again(play: Play) -> None:
    """What doesn't fit its signature is lost, and not more than that."""
    play.ann(submit("x"), publish(1, "d", "x", persist="database"))
    play.worker("w", finished("x", 1, None))
    play.worker(ARCHIVE, m.Stored("x", LARGE, ""))
    play.handle(WorkerLost("w"))
    play.join("v")
    commands = play.worker(ARCHIVE, m.DataLost("x", "altered"))
    assert sent(commands, ARCHIVE) == [m.Free(["x"])]
    assert play.run("v", "x", 2) in commands
    assert len(sent(play.worker("v", finished("x", 2, None)), ARCHIVE)) == 1


# -- surviving -------------------------------------------------------------------------------------------------------


def test_a_journal_and_a_checkpoint_bring_everything_back(play: Play) -> None:
    """Names, metadata, what is wanted, and what has to be stored; refused requests and lists leave no trace."""
    facts: list[AnyFact] = []
    play.state.facts = facts
    play.ann(
        m.AddFunction(b"f" * 16, "f", b"code"),
        submit("x"),
        publish(1, "d", "x", persist="database", about={"who": "ann"}),
    )
    play.ann(
        publish(2, "e", "x"),
        publish(3, "e"),
        get(4, "d"),
        m.Ask(5, "datasets"),
        publish(6, "gone"),
        unpublish(7, "gone", "u"),
    )
    play.ann(m.Release(["x"]))
    play.handle(ClientGone("ann"))
    play.worker("w", finished("x", 1, BIG))
    for again in (
        replayed(facts, play.state.policy),
        replayed([], play.state.policy, list(checkpoint.dump(play.state))),
    ):
        assert projection(again)["extras"] == projection(play.state)["extras"]
        assert info(again, "d") == {**info(play.state, "d")}
        assert list(again.published.unstored) == ["x"]
        assert [task.key for task in again.holders["dataset:d"].wants] == ["x"]


def test_an_archive_tells_a_new_scheduler_what_it_has(play: Play) -> None:
    """What is stored need not be stored again; what nobody wants any more is freed."""
    play.ann(submit("x"), submit("y"), publish(1, "d", "x", "y", persist="database"))
    play.worker("w", finished("x", 1, None), finished("y", 2, None))
    parts = list(checkpoint.dump(play.state))
    again = Play()
    again.machine.state = again.state = replayed([], play.state.policy, parts)
    storing.open_archive(again.state, "database")
    again.state.replaying = False
    handle = again.machine.handle
    inventory = m.Inventory([("x", LARGE, ""), ("old", 10, "")], last=True)
    handle(WorkerSaid(ARCHIVE, [inventory]), 0.0)
    assert info(again.state, "d")["stored"] is False
    assert list(again.state.published.unstored) == ["y"]
    assert again.state.archives[ARCHIVE] in again.task("x").holder_paths()
    handle(WorkersBack(), 0.0)
    assert again.states() == {"x": "memory", "y": "no_worker"}  # y went with the workers, and is computed again
    commands = handle(Tick(), again.state.policy.claim_grace + 1)
    assert m.Free(["old"]) in sent(commands, ARCHIVE)


# -- telling ---------------------------------------------------------------------------------------------------------


def test_the_digest_of_a_graph_knows_work_and_not_keys() -> None:
    """The same functions and arguments in another run have the same one; other inputs have another."""

    def graph(prefix: str, args: bytes) -> str:
        play = Play()
        play.ann(submit(prefix + "a", args=args), submit(prefix + "b", prefix + "a"), publish(1, "d", prefix + "b"))
        assert info(play.state, "d")["graph_tasks"] == 2
        return str(info(play.state, "d")["graph"])

    assert graph("p", b"1") == graph("q", b"1") != graph("p", b"2")


def test_metadata_tells_how_it_stands(play: Play) -> None:
    """Sizes count what is there; the web page and the command show these."""
    about = {"type": "list", "who": "ann@h", "program": "p", "when": 5.0, "environment": {"python": "3"}}
    play.ann(submit("x"), submit("y"), publish(1, "d", "x", "y", about=about))
    play.worker("w", finished("x", 1, None), m.Erred("y", 2, m.Failure("E", "no", "", "y", "w")))
    told = info(play.state, "d")
    assert msgspec.to_builtins(told) == told
    graph = told.pop("graph")
    assert len(graph) == 64
    assert told == {
        "name": "d", "type": "list", "size": LARGE + 1, "parts": 2, "ready": 1, "failed": 1, "persist": None,
        "stored": None, "trouble": "", "who": "ann@h", "client": "ann", "program": "p", "when": 5.0,
        "graph_tasks": 2, "environment": {"python": "3"},
    }  # fmt: skip
    assert answers(play.bob(m.Ask(1, "dataset_names"))) == [("bob", 1, ["d"])]
    assert "takes a list" in play.bob(m.Ask(2, "datasets", "d"))[0].message.error


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def noting(play: Play) -> Play:
    """With a journal, whose writer is told of the table of datasets."""
    play.state.facts = []
    return play


def sizes(play: Play) -> dict[str, int | None]:
    """What has changed since it was looked at last: the size; None for what is gone."""
    return {name: None if row is None else row["size"] for name, row in catalog.take(play.state).items()}


def test_the_table_is_told_what_was_published_and_what_is_gone(noting: Play) -> None:
    """Also by another name for the same, and of what was replaced before anybody looked."""
    about = {"type": "dict", "who": "ann@h", "program": "p", "when": 5.0, "environment": {"python": "3"}}
    noting.ann(submit("x"), publish(1, "d", "x", about=about, persist="database"))
    assert catalog.take(noting.state) == {
        "d": {
            "type": "dict", "size": 1, "parts": 1, "persist": "database", "who": "ann@h", "client": "ann",
            "program": "p", "published_at": 5.0, "graph": info(noting.state, "d")["graph"], "graph_tasks": 1,
            "environment": {"python": "3"},
        }
    }  # fmt: skip
    assert sizes(noting) == {}
    noting.ann(publish(2, "d", item=b"four", override=True), publish(3, "e", "x"), unpublish(4, "e", "o"))
    assert sizes(noting) == {"d": 4, "e": None}


def test_the_table_is_told_a_size_once_all_results_are_there(noting: Play) -> None:
    """Not at each of a thousand."""
    noting.ann(submit("x"), submit("y"), publish(1, "d", "x", "y"), publish(2, "e", "y"))
    assert sizes(noting) == {"d": 1, "e": 1}
    noting.worker("w", finished("x", 1, None))
    assert sizes(noting) == {}
    noting.worker("w", finished("y", 2, None))
    assert sizes(noting) == {"d": 1 + 2 * LARGE, "e": 1 + LARGE}


def test_a_dataset_that_goes_before_its_results_come_is_not_told_of_again(noting: Play) -> None:
    """And a task that fails makes no size known; one that is tried again does."""
    noting.ann(submit("x"), submit("y"), publish(1, "d", "x"), publish(2, "e", "y"))
    noting.ann(unpublish(3, "d", "o"))
    noting.worker("w", m.Erred("y", 2, m.Failure("ValueError", "no", "", "y", "w")))
    assert sizes(noting) == {"d": None, "e": 1}
    noting.ann(m.Retry(["y"]))
    noting.worker("w", finished("x", 1, None), finished("y", 3, None))
    assert sizes(noting) == {"e": 1 + LARGE}


def test_after_a_replay_the_table_is_told_all_there_is(noting: Play) -> None:
    """What was published while a scheduler led that didn't know the table is in it from then on."""
    noting.ann(CODE, submit("x"), submit("y"), publish(1, "d", "x", "y"), publish(2, "gone"), unpublish(3, "gone", "o"))
    noting.worker("w", finished("x", 1, None))
    assert noting.state.facts is not None
    state = replayed(noting.state.facts, noting.state.policy)
    assert {name: row["size"] for name, row in catalog.begin(state).items()} == {"d": 1 + LARGE}
    assert state.published.unready == {"y": {"d": None}}


def test_moments_that_no_database_takes_are_left_out(noting: Play) -> None:
    """A publisher may say anything."""
    noting.ann(publish(1, "d", about={"when": float("nan")}))
    row = catalog.take(noting.state)["d"]
    assert row is not None
    assert row["published_at"] == 0.0
