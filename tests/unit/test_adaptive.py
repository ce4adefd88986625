"""How many workers there should be: the decisions, without a cluster; and the command of a platform."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path

import pytest

from futurebroker.adaptive import Adaptive, Command, Decider
from futurebroker.exceptions import FuturebrokerError


def test_more_workers_come_at_once_and_no_more_than_allowed() -> None:
    """Somebody waits for them."""
    decider = Decider(1, 4, 3)
    assert decider.decide(0, 0, []) == (1, [])
    assert decider.decide(3, 1, []) == (3, [])
    assert decider.decide(100, 3, []) == (4, [])


def test_workers_leave_only_when_fewer_were_wanted_for_a_while() -> None:
    """And as many as the largest of these wishes allows; of those that are idle."""
    decider = Decider(0, math.inf, 3)
    idle = ["a", "b", "c"]
    assert decider.decide(0, 4, idle) == (4, [])
    assert decider.decide(2, 4, idle) == (4, [])
    assert decider.decide(1, 4, idle) == (4, ["a", "b"])
    assert decider.decide(1, 2, idle) == (2, [])
    assert decider.decide(2, 2, idle) == (2, [])  # begins anew
    assert decider.decide(1, 2, idle) == (2, [])
    assert decider.decide(1, 2, idle) == (2, [])
    assert decider.decide(1, 2, []) == (2, [])  # nobody is idle


def test_a_minimum_stays() -> None:
    """Though there is nothing to do."""
    decider = Decider(2, 9, 1)
    assert decider.decide(0, 3, ["a", "b", "c"]) == (3, ["a"])
    assert decider.decide(0, 2, ["a", "b"]) == (2, [])


def test_senseless_bounds_are_refused() -> None:
    """Before anything is started."""
    command = Command("scale {n}")
    for bounds in ({"minimum": -1}, {"minimum": 3, "maximum": 2}, {"maximum": 0}, {"interval": 0}):
        with pytest.raises(ValueError, match="maximum=|interval="):
            Adaptive(lambda: None, command, **bounds)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="must contain {n}"):
        Command("scale worker")


def test_the_command_of_a_platform_is_told_the_number_and_who_left(tmp_path: Path) -> None:
    """Without a shell, so that a name can't be code; workers that were asked for count until patience ends."""
    log = tmp_path / "log"
    program = f"import sys; open({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))"
    command = Command(f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} worker={{n}} [{{names}}]", patience=2)
    assert command.count(1) == 1
    command.scale_up(3)
    assert [command.count(1), command.count(1), command.count(1)] == [3, 3, 1]
    command.scale_up(3)
    assert command.count(3) == 3
    command.left(["a; rm", "b"], 1)
    assert log.read_text().splitlines() == ["worker=3 []", "worker=3 []", "worker=1 [a; rm,b]"]
    with pytest.raises(FuturebrokerError, match="ended with 3: no such app"):
        Command(
            f"{shlex.quote(sys.executable)} -c 'import sys; sys.stderr.write(\"no such app\"); sys.exit(3)' {{n}}"
        ).scale_up(1)
