"""Values that come to a worker from elsewhere: mapped, fetched in pieces, taken over, written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from futurebroker.protocol.messages import (
    AdoptFile,
    DataEnough,
    DataPart,
    DataWanted,
    Free,
    Held,
    InputsMissing,
    NotStored,
    Replicate,
    Store,
    Stored,
    StorePart,
)
from futurebroker.worker import commands
from futurebroker.worker.arrivals import PART_BYTES, PARTS_AHEAD, PATIENCE, RENEW
from futurebroker.worker.packets import ValueFile
from tests.unit.worker.world import World, run


@pytest.fixture
def world() -> World:
    """One executor with one thread."""
    return World()


def part(wanted: Any, whole: bytes) -> DataPart:
    """What the holder of ``whole`` answers."""
    assert isinstance(wanted, DataWanted)
    end = wanted.offset + wanted.length
    return DataPart(wanted.transfer, wanted.key, wanted.offset, len(whole), whole[wanted.offset : end])


def test_a_file_on_this_host_is_used_where_it_is(world: World) -> None:
    """No byte is copied between workers of one host."""
    world.host_files.add("/other/x")
    assert world.deliver(run("a", Held("x", 900, [("w2", "/other/x")]))) == []
    task = world.begin(1)
    assert task is not None
    assert task.inputs == (ValueFile("/other/x"),)
    assert world.machine.store.managed == 0
    world.end(1)
    assert "x" not in world.machine.store
    assert commands.Unlink("/other/x") not in world.said


def test_a_value_of_another_host_is_fetched_in_pieces_a_few_ahead(world: World) -> None:
    """One piece at a time would wait a round trip for each."""
    whole = bytes(range(256)) * 5000
    (wanted,) = world.deliver(run("a", Held("x", len(whole), [("w2", "/other/x")])))
    asked = [wanted]
    while asked:
        answer = asked.pop(0)
        if isinstance(answer, DataEnough):
            assert not asked
            break
        assert isinstance(answer, DataWanted)
        assert answer.holder == "w2"
        asked += world.deliver(part(answer, whole))
    written = [said for said in world.said if isinstance(said, commands.WritePart)]
    assert b"".join(piece.data for piece in sorted(written, key=lambda piece: piece.offset)) == whole
    task = world.begin(1)
    assert task is not None
    assert task.inputs == (ValueFile(written[0].path),)
    world.end(1)
    assert commands.Unlink(written[0].path) in world.said


def test_a_piece_that_comes_twice_counts_once(world: World) -> None:
    """Counted twice, a value would be taken for whole too early."""
    whole = bytes(3 * PART_BYTES)
    (first,) = world.deliver(run("a", Held("x", len(whole), [("w2", "")])))
    assert isinstance(first, DataWanted)
    more = world.deliver(part(first, whole))
    assert len(more) == 2
    assert world.deliver(part(first, whole), part(first, whole)) == []
    assert world.begin(1) is None


def test_the_next_holder_is_tried_and_all_are_named_when_none_has_it(world: World) -> None:
    """The scheduler can then compute the input again instead of sending the task in circles."""
    (first,) = world.deliver(run("a", Held("x", 9, [("w2", ""), ("w3", "")])))
    assert isinstance(first, DataWanted)
    (second,) = world.deliver(DataPart(first.transfer, "x", 0, -1, b""))
    assert isinstance(second, DataWanted)
    assert second.holder == "w3"
    assert world.deliver(DataPart(second.transfer, "x", 0, -1, b"")) == [
        InputsMissing("a", 1, [("x", "w2"), ("x", "w3")])
    ]


def test_a_silent_holder_is_given_up(world: World) -> None:
    """A holder that is gone answers nothing at all."""
    world.deliver(run("a", Held("x", 9, [("w2", "")])))
    assert world.pass_time(PATIENCE + 1) == [DataEnough(1), InputsMissing("a", 1, [("x", "w2")])]


# -- past the scheduler ------------------------------------------------------------------------------------------------


def offsets(messages: Sequence[Any], inbox: str) -> list[int]:
    """The numbers of the pieces that were asked for, all to be sent to ``inbox``."""
    assert all(isinstance(one, DataWanted) and one.inbox == inbox for one in messages), messages
    return [one.offset // PART_BYTES for one in messages]


def test_pieces_of_a_large_value_are_asked_for_past_the_scheduler(world: World) -> None:
    """Once it is known where they can be sent; a small value isn't worth a connection."""
    whole = bytes(40 * PART_BYTES)
    world.bulk = None
    (small,) = world.deliver(run("a", Held("s", PART_BYTES, [("w2", "")])))
    assert offsets([small], "") == [0]
    assert world.deliver(run("b", Held("x", len(whole), [("w2", "")]))) == []
    assert world.deliver(run("c", Held("y", len(whole), [("w2", "")]))) == []
    assert world.said.count(commands.OpenBulk()) == 1
    first, other = world.do(commands.BulkInbox("q"))
    assert offsets([first, other], "q") == [0, 0]
    more = world.deliver(part(first, whole))
    assert offsets(more, "q") == list(range(1, 1 + PARTS_AHEAD))
    assert {one.got for one in more if isinstance(one, DataWanted)} == {PART_BYTES}
    (next_one,) = world.deliver(part(more[5], whole))
    assert offsets([next_one], "q") == [1 + PARTS_AHEAD]


def test_a_broken_connection_costs_only_what_was_on_its_way(world: World) -> None:
    """What has come isn't asked for again; the rest is to be sent to the new place, or by the scheduler."""
    whole = bytes(5 * PART_BYTES)
    world.bulk = "q1"
    first: Any
    (first,) = world.deliver(run("a", Held("x", len(whole), [("w2", "")])))
    pieces = world.deliver(part(first, whole))
    world.deliver(part(pieces[1], whole))
    world.bulk = "q2"
    assert offsets(world.do(commands.BulkInbox("")), "q2") == [1, 3, 4]
    world.bulk = ""
    again = world.do(commands.BulkInbox(""))
    assert offsets(again, "") == [1, 3, 4]
    assert world.deliver(*(part(one, whole) for one in (*again, *pieces))) == [DataEnough(first.transfer)]
    assert world.begin(1) is not None


def test_pieces_that_were_lost_are_asked_for_again(world: World) -> None:
    """The holder's connection broke, and nobody knows with what; patience doubles, for the broker may just be slow."""
    whole = bytes(3 * PART_BYTES)
    world.bulk = "q"
    (first,) = world.deliver(run("a", Held("x", len(whole), [("w2", "")])))
    pieces = world.deliver(part(first, whole))
    assert world.pass_time(RENEW / 2) == []
    assert offsets(world.pass_time(RENEW), "q") == [1, 2]
    assert world.pass_time(RENEW) == []
    assert offsets(world.pass_time(RENEW), "q") == [1, 2]
    world.deliver(part(pieces[0], whole))
    assert world.pass_time(RENEW / 2) == []
    assert offsets(world.pass_time(RENEW), "q") == [2]
    assert InputsMissing("a", 1, [("x", "w2")]) in world.pass_time(PATIENCE)


def test_pieces_of_two_runs_do_not_become_one_value(world: World) -> None:
    """It was lost and made again between two pieces, and is as long as before."""
    whole = bytes(3 * PART_BYTES)
    first: Any
    (first,) = world.deliver(run("a", Held("x", len(whole), [("w2", "")])))
    pieces = world.deliver(DataPart(first.transfer, "x", 0, len(whole), whole[:PART_BYTES], "", 1))
    later = DataPart(first.transfer, "x", PART_BYTES, len(whole), whole[:PART_BYTES], "", 2)
    enough, again = world.deliver(later)
    assert enough == DataEnough(first.transfer)
    assert isinstance(again, DataWanted)
    assert again.transfer != first.transfer
    assert again.offset == 0
    assert world.deliver(part(pieces[1], whole)) == []


def test_two_tasks_share_one_fetch(world: World) -> None:
    """The same bytes need not come twice."""
    source = Held("x", 3, [("w2", "")])
    (wanted,) = world.deliver(run("a", source), run("b", source))
    assert isinstance(wanted, DataWanted)
    world.deliver(part(wanted, b"abc"))
    assert world.machine.dispatcher.ready + len(world.machine.dispatcher.sent) == 2


def test_stored_values_are_announced_with_what_is_needed_to_reach_them(world: World) -> None:
    """Small ones stay in the agent, larger ones become files that others on the host can map."""
    assert world.deliver(Store("s", b"abc")) == [Stored("s", 3, "")]
    large = bytes(100_000)
    (stored,) = world.deliver(Store("l", large))
    assert isinstance(stored, Stored)
    assert stored.path
    assert world.machine.store.managed == 100_003
    world.deliver(Free(["l", "s"]))
    assert world.machine.store.managed == 0
    assert commands.Unlink(stored.path) in world.said


def test_a_value_in_pieces_is_stored_when_the_last_has_come(world: World) -> None:
    """Pieces may come in any order, and again."""
    assert world.deliver(StorePart("p", 4, 8, b"efgh"), StorePart("p", 4, 8, b"efgh")) == []
    (stored,) = world.deliver(StorePart("p", 0, 8, b"abcd"))
    assert isinstance(stored, Stored)
    assert stored.nbytes == 8


def test_a_clients_file_is_taken_over_or_refused(world: World) -> None:
    """A worker of another host must say that it can't open the file."""
    world.host_files.add("/client/f")
    (stored,) = world.deliver(AdoptFile("f", "/client/f", 77))
    assert isinstance(stored, Stored)
    assert stored.nbytes == 77
    assert world.deliver(AdoptFile("g", "/nowhere", 1)) == [NotStored("g", "not here")]


def test_a_replica_is_kept_and_announced(world: World) -> None:
    """By its name on the same host, in pieces from another."""
    world.host_files.add("/other/x")
    (stored,) = world.deliver(Replicate(Held("x", 50, [("w2", "/other/x")])))
    assert isinstance(stored, Stored)
    (wanted,) = world.deliver(Replicate(Held("y", 3, [("w2", "/far/y")])))
    assert isinstance(wanted, DataWanted)
    assert world.deliver(part(wanted, b"abc")) == [Stored("y", 3, "")]
    assert world.machine.store.managed == 53


def test_a_full_disk_is_reported_and_leaves_nothing(world: World) -> None:
    """A value that was half written must not be taken for stored."""
    world.deliver(StorePart("p", 0, 8, b"abcd"))
    (written,) = (said for said in world.said if isinstance(said, commands.WritePart))
    assert world.do(commands.WriteFailed(written.path, "disk full")) == [NotStored("p", "disk full")]
    assert world.said[-1] == commands.Unlink(written.path)


def test_pieces_of_what_is_held_are_sent_and_what_is_not_is_denied(world: World) -> None:
    """The other half of a fetch."""
    world.deliver(Store("s", b"abcdef"))
    assert world.deliver(DataWanted(5, "s", 2, 3, "me", "w9")) == [DataPart(5, "s", 2, 6, b"cde", "w9")]
    assert world.deliver(DataWanted(6, "t", 0, 3, "me", "w9")) == [DataPart(6, "t", 0, -1, b"", "w9")]
