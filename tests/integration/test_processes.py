"""Children of ours: they get their orders, report, and never outlive their parent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from futurebroker.exceptions import StartError
from futurebroker.processes import DRAIN, Child

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    """Where the child writes what happens to it."""
    return tmp_path / "diary"


@pytest.fixture
def child() -> Iterator[Child]:
    """A child that has no orders yet."""
    child = Child("patient", "tests.integration.sample_child")
    yield child
    child.end()
    assert not child.alive


def orders(diary: Path, **more: Any) -> dict[str, Any]:
    return {"log_level": "info", "secret": "s3cret", "diary": str(diary), **more}


def test_a_child_reports_and_ends_when_told(child: Child, diary: Path) -> None:
    """The whole of a normal life; the secret stands neither in the command line nor in the environment."""
    child.order(orders(diary))
    assert child.report(30) == {"pid": child.pid, "betrayed": False}
    assert child.alive
    child.end()
    assert diary.read_text() == "closed\n"


def test_a_child_asked_to_drain_does_so_before_it_ends(child: Child, diary: Path) -> None:
    """A worker that is scaled away must hand its work back first."""
    child.order(orders(diary))
    child.report(30)
    child.order(DRAIN)
    child.wait(30)
    assert diary.read_text() == "drained\nclosed\n"


def test_a_question_that_is_given_up_is_not_answered_later_by_mistake(child: Child, diary: Path) -> None:
    """Answers come in the order in which they are ready."""
    child.order(orders(diary))
    child.report(30)
    assert child.ask({"question": "a", "after": 0}, 30)["answer"] == "A"
    assert child.ask({"question": "b", "after": 0.2}, 0.01) == {}
    assert child.ask({"question": "c", "after": 0.4}, 30)["answer"] == "C"
    child.end()
    assert child.ask({"question": "d", "after": 0}, 30) == {}


def test_an_error_of_ours_is_told_as_a_sentence(child: Child, diary: Path) -> None:
    """A taken port is the user's business; the traceback of our code isn't."""
    child.order(orders(diary, fail="sentence"))
    with pytest.raises(StartError, match=r"^the patient did not start: port 1 is taken$"):
        child.report(30)


def test_a_bug_is_told_with_its_traceback(child: Child, diary: Path) -> None:
    """Whoever gets this error has to find the line."""
    child.order(orders(diary, fail="bug"))
    with pytest.raises(StartError, match=r"(?s)did not start: Traceback.*sample_child\.py.*ZeroDivisionError: a bug"):
        child.report(30)


def test_a_child_that_vanishes_is_named_with_its_exit_code(child: Child, diary: Path) -> None:
    """No report and no waiting until the timeout."""
    child.order(orders(diary, fail="exit"))
    with pytest.raises(StartError, match="it ended with exit code 3 and wrote nothing"):
        child.report(30)


def test_what_a_child_writes_before_it_can_report_is_part_of_the_error() -> None:
    """A missing library shows as an import error, which must reach the user and not only some log."""
    child = Child("patient", "tests.integration.no_such_module")
    with pytest.raises(StartError, match=r"(?s)exit code 1:.*ModuleNotFoundError.*no_such_module"):
        child.report(30)
    child.end()


def test_a_child_that_takes_too_long_is_ended(child: Child, diary: Path) -> None:
    """A start that hangs is an error within the timeout, and the child goes all the same."""
    child.order(orders(diary, fail="never"))
    with pytest.raises(StartError, match=r"it did not report within 0\.5 s"):
        child.report(0.5)
    child.end()
    assert not child.alive


def test_a_child_without_orders_ends_with_the_lifeline(child: Child, diary: Path) -> None:
    """The parent may die between starting a child and telling it what to do."""
    child.end()
    assert not child.alive


def test_a_child_dies_with_a_parent_that_was_killed(diary: Path) -> None:
    """SIGKILL leaves the parent no time, and a fork of it still holds the lifeline open."""
    program = [sys.executable, str(Path(__file__).with_name("sample_parent.py")), str(ROOT), str(diary)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        _, alive = psutil.wait_procs([child], timeout=30)
        assert not alive
        assert diary.read_text() == "closed\n"
