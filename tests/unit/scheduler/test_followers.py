"""What follows a task, for the task itself."""

from __future__ import annotations

import pytest

from futurebroker.protocol import messages as m
from futurebroker.scheduler import followers
from tests.unit.scheduler.play import FUNCTION, Play, submit, tell
from tests.unit.scheduler.test_terms import agreed


def test_followers_are_told_nearest_first_with_what_was_agreed() -> None:
    """And those of others aren't; nor what the task needs itself."""
    play = Play("w")
    play.ann(submit("before"), submit("x", "before"), submit("other", args=b"o"))
    play.ann(agreed("a", "x", request=b"r"), submit("b", "a", args=b"b"), agreed("both", "b", "other", joins=True))
    calls = [["a", "f", b"", ["x"], b"r", False], ["b", "f", b"b", ["a"], b"", False]]
    calls.append(["both", "f", b"", ["b", "other"], b"", True])
    play.ann(m.OnFailure("x", [m.PlannedCall(FUNCTION, "errback", b"e", ())]))
    planned = [["errback", "f", b"e", [], b"", False]]
    told = play.ann(m.Ask(1, "followers", "x"))
    assert told == [tell("ann", m.Answer(1, {"calls": calls, "planned": planned}))]
    nothing: dict[str, list[str]] = {"calls": [], "planned": []}
    assert play.ann(m.Ask(2, "followers", "unheard of")) == [tell("ann", m.Answer(2, nothing))]


def test_what_is_told_of_a_large_graph_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is one message, and a task may be followed by a million others."""
    play = Play("w")
    play.ann(submit("x"), *(submit(f"t{i}", "x", args=b"1234") for i in range(9)))
    monkeypatch.setattr(followers, "CALLS_MOST", 3)
    assert [call[0] for call in followers.followers(play.state, "x")["calls"]] == ["t0", "t1", "t2"]
    monkeypatch.setattr(followers, "BYTES_MOST", 8)
    assert [call[0] for call in followers.followers(play.state, "x")["calls"]] == ["t0", "t1"]
