"""What is kept of a client's wishes, and what becomes of records: counts free them, Python's collector doesn't."""

from __future__ import annotations

import gc

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import WorkerBeat
from futurebroker.scheduler.records import GAPS, Pool
from tests.unit.scheduler.play import Play, submit


def test_what_a_client_wants_is_told_in_the_order_it_came_to_want_it() -> None:
    """Also after it let go of some and wants one of these again; each counts once."""
    play = Play("w", slots=1)
    play.bob(submit("b"), submit("d"))
    play.ann(submit("a"), m.Want(["b", "a"]), submit("c"), m.Want(["d"]))
    play.ann(m.Release(["b", "c"]), m.Want(["b", "b"]))
    ann = play.state.clients["ann"]
    assert [task.key for task in ann.wants] == ["a", "b", "d"]
    assert ann.wanted == 3
    play.ann(m.Release(["b", "b", "never"]))
    assert [task.key for task in ann.wants] == ["a", "d"]


def test_what_a_client_lets_go_of_does_not_pile_up() -> None:
    """A client that goes on for months wants few results at a time, and costs what these few cost."""
    play = Play()
    play.ann(submit("kept"))
    ann = play.state.clients["ann"]
    longest = 0
    for number in range(4 * GAPS):
        play.ann(submit(f"x{number}"), m.Release([f"x{number}"]))
        longest = max(longest, len(ann.line))
    assert longest <= GAPS + 4
    assert [task.key for task in ann.wants] == ["kept"]


def test_a_record_that_is_gone_holds_no_arguments() -> None:
    """It may stand in its client's line for some time yet."""
    play = Play()
    play.ann(submit("x", args=b"a" * 1000))
    record = play.task("x")
    play.ann(m.Release(["x"]))
    assert play.states() == {}
    assert record.args == b""


def test_what_was_ready_and_is_gone_is_not_held_by_its_pool() -> None:
    """Nor the pool by that: a program may submit thousands with options of their own and cancel them, many times."""
    gc.collect()
    others = {id(one) for one in gc.get_objects() if type(one) is Pool}
    play = Play("w", slots=1)
    play.handle(WorkerBeat("w", "paused", {}))
    play.ann(submit("x", priority=2), submit("y", priority=2))
    assert play.states() == {"x": "queued", "y": "queued"}
    play.ann(m.Release(["x", "y"]))
    play.state.clients["ann"].line.clear()  # she lets go of them when her line has grown
    gc.collect()
    pools = [one for one in gc.get_objects() if type(one) is Pool and id(one) not in others]
    assert pools == list(play.state.pools.values())


def test_a_scheduler_that_is_gone_leaves_no_records_behind() -> None:
    """In a program that starts and closes clusters the graphs of all of them would add up."""
    gc.collect()
    others = {id(one) for one in gc.get_objects() if type(one) is Pool}
    play = Play("w", slots=1)
    play.ann(submit("a", retries=7), submit("b", "a", retries=7), submit("c", "b", retries=7))
    play.bob(m.Want(["a", "c"]))
    play.ann(submit("nowhere", workers=["nobody"]), submit("gone"))
    play.ann(m.Release(["gone"]))  # it stands in her line yet
    del play
    gc.collect()
    assert {id(one) for one in gc.get_objects() if type(one) is Pool} <= others
