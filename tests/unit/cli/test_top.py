"""What `top` draws of a snapshot: bars that are read without colours, and nothing that steers the terminal."""

from __future__ import annotations

import click
import pytest

from futurebroker.cli.tasks import story
from futurebroker.cli.text import harmless
from futurebroker.cli.top import NARROWEST, bar, lines_of
from futurebroker.snapshot import KindView, Snapshot, Tracker
from tests.unit.test_snapshot import answer, kind, queue, worker

STEERING = "\x1b[2J\x1b]0;owned\x07\u202e\n"


def snapshot() -> Snapshot:
    """Two looks at a busy cluster whose names are as bad as names get."""
    tracker = Tracker()
    there = {"w": worker(name=f"w1{STEERING}", metrics={"executing": 1, "memory": 100 << 20}, processing=2)}
    kinds = {"train": kind(40, processing=2, queued=50, erred=8), f"f{STEERING}": kind(1)}
    waiting = queue(queued=50, workers=[f"w9{STEERING}"], since=12.0)
    tracker.take(answer(workers=there, kinds={"train": kind(20, queued=80)}), 1.0)
    return tracker.take(answer(workers=there, kinds=kinds, queues=[waiting]), 3.0)


def train(shown: Snapshot) -> KindView:
    """The kind of that name."""
    return next(kind for kind in shown.kinds if kind.name == "train")


@pytest.mark.parametrize("width", [NARROWEST, 80, 200])
def test_one_screen_tells_progress_workers_and_backlog(width: int) -> None:
    """What the dashboard's first page says, where there is no browser."""
    text = click.unstyle("\n".join(lines_of(snapshot(), width)))
    assert "8 tasks failed: train" in text
    assert "train " in text
    assert " 40/100 " in text
    assert "50 ready, the first for 12 s" in text
    assert "running" in text
    assert "100 MiB" in text


def test_bars_show_every_part_and_keep_their_width() -> None:
    """One failure among a million is one mark."""
    marks = click.unstyle(bar(train(snapshot()), 30))
    assert len(marks) == 30
    assert {"█", "!", "▓", "▒"} == set(marks)
    assert click.unstyle(bar(train(snapshot()), 4)) == "█!▓▒"


def test_names_do_not_steer_the_terminal() -> None:
    """Whoever names a task doesn't get to clear the operator's screen."""
    lines = list(lines_of(snapshot(), 100))
    assert all(click.unstyle(line).isprintable() for line in lines)
    assert harmless("a\tb\x1bc") == "a       b·c"


def test_a_story_is_told_without_steering_either() -> None:
    """Errors and output are the users' own text."""
    row = {
        "key": f"k{STEERING}", "outcome": "failed", "submitted_at": None, "client": "", "events": [],
        "started_at": None,
        "duration": None, "nbytes": 0, "result_type": "", "ended_at": 1.0, "attempts": 1, "error_type": "E",
        "error": STEERING, "traceback": STEERING, "inputs": [], "outputs": [], "earlier": [],
        "notes": [{"at": 1.0, "worker": "w", "arguments": STEERING, "result": "", "output": f"one{STEERING}two"}],
    }  # fmt: skip
    assert all(harmless(line).isprintable() for line in story(row))
    assert any("two" in line for line in story(row))
