"""Results in parts through the broker: how many bytes may be on their way, and when that is over."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import ClientGone, Send, WorkerLost
from futurebroker.scheduler.relay import RELAYED_BYTES
from tests.unit.scheduler.play import Play, submit, tell

#: bytes of a part, and of a value of many
PART = 512 * 1024
WHOLE = 128 * PART


def holding(*keys: str, workers: tuple[str, ...] = ("w",)) -> Play:
    """The first of the workers has made large results."""
    play = Play(*workers)
    for attempt, key in enumerate(keys, 1):
        play.ann(submit(key, workers=workers[:1]))
        play.worker(workers[0], m.Finished(key, attempt, WHOLE, 1, None, f"/{key}", "ndarray"))
    return play


def wanted(number: int, key: str, part: int, got: int = 0, inbox: str = "q") -> m.DataWanted:
    """A request for the part of that number, when ``got`` parts have come."""
    return m.DataWanted(number, key, part * PART, PART, "", "", inbox, got * PART)


def passed(commands: list[Any]) -> list[tuple[int, int]]:
    """Transfer and part of the requests that were passed to a worker."""
    asked = [one.message for one in commands if isinstance(one, Send) and isinstance(one.message, m.DataWanted)]
    return [(one.transfer, one.offset // PART) for one in asked]


def test_a_holder_is_told_where_to_send_a_part() -> None:
    """Then it comes past the scheduler."""
    play = holding("x")
    assert play.ann(wanted(3, "x", 0)) == [Send("w", m.DataWanted(3, "x", 0, PART, "w", "ann", "q"))]
    assert play.state.relayed_bytes == PART
    assert play.ann(wanted(3, "x", 1, got=1)) == [Send("w", m.DataWanted(3, "x", PART, PART, "w", "ann", "q"))]
    assert play.state.relayed_bytes == PART
    assert play.ann(m.DataEnough(3)) == []
    assert play.state.relayed_bytes == 0
    assert play.state.relayed == {}


def test_what_is_on_its_way_is_bounded_over_all_transfers() -> None:
    """All of it may lie in the broker, whose memory is not ours; the rest is passed on as parts arrive, in order."""
    play = holding("x", "y")
    most = RELAYED_BYTES // PART
    first = play.ann(*(wanted(1, "x", part) for part in range(most // 2)))
    second = play.bob(m.Want(["y"]), *(wanted(1, "y", part) for part in range(most)))
    assert len(passed(first + second)) == most
    assert play.state.relayed_bytes == RELAYED_BYTES
    assert passed(play.ann(wanted(1, "x", 50, got=2))) == [(1, most // 2), (1, most // 2 + 1)]
    assert passed(play.ann(m.DataEnough(1))) == [(1, part) for part in range(most // 2 + 2, most)]


def test_a_request_that_is_repeated_counts_once() -> None:
    """What is lost on the way is asked for again, and then only one of the two arrives."""
    play = holding("x")
    most = RELAYED_BYTES // PART
    play.ann(*(wanted(1, "x", part) for part in range(most)))
    assert passed(play.ann(wanted(1, "x", 3, got=2))) == [(1, 3)]
    assert play.state.relayed_bytes == RELAYED_BYTES - 2 * PART
    waits = [wanted(1, "x", part, got=2) for part in range(most, most + 4)]
    assert passed(play.ann(*waits)) == [(1, most), (1, most + 1)]
    assert passed(play.ann(*waits[2:])) == []
    assert passed(play.ann(wanted(1, "x", 0, got=most + 2))) == [(1, most + 2), (1, most + 3), (1, 0)]


def test_one_part_that_is_the_whole_ends_its_transfer() -> None:
    """Small results need no further message."""
    play = holding("x")
    play.ann(wanted(1, "x", 0, inbox=""))
    part = m.DataPart(1, "x", 0, 10, bytes(10), "ann")
    assert play.worker("w", part) == [tell("ann", part)]
    assert play.state.relayed == {}


def test_a_holder_that_does_not_have_it_ends_the_transfer() -> None:
    """And so does its loss, of which who asked is told once."""
    play = holding("x")
    play.ann(wanted(1, "x", 0), wanted(1, "x", 1))
    missing = m.DataPart(1, "x", 0, -1, b"", "ann")
    assert play.worker("w", missing) == [tell("ann", missing)]
    assert play.state.relayed_bytes == 0
    play.ann(wanted(2, "x", 0), wanted(2, "x", 1))
    told = [
        one for one in play.handle(WorkerLost("w")) if isinstance(one, Send) and isinstance(one.message, m.DataPart)
    ]
    assert told == [tell("ann", m.DataPart(2, "x", 0, -1, b"", "ann"))]
    assert play.ann(wanted(2, "x", 2))[-1] == tell("ann", m.DataPart(2, "x", 2 * PART, -1, b""))


def test_who_is_gone_leaves_its_room_to_others() -> None:
    """Or a program that is killed in the middle would take it for ever."""
    play = holding("x", "y", workers=("w", "v"))
    most = RELAYED_BYTES // PART
    play.bob(m.Want(["x", "y"]), *(wanted(1, "x", part) for part in range(most)))
    play.worker("v", wanted(1, "x", 0), wanted(1, "x", 1))
    assert passed(play.ann(wanted(1, "y", 0))) == []
    assert passed(play.handle(WorkerLost("v"))) == []
    assert passed(play.handle(ClientGone("bob"))) == [(1, 0)]
    assert play.state.relayed_bytes == PART
    assert not play.state.relays_waiting
