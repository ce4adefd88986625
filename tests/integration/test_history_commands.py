"""The history as a user has it: a cluster runs and ends, and its tasks are found, told and counted afterwards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from futurebroker import CancelledError, Client, wait
from futurebroker.cli.tasks import graphs, history
from tests.integration.programs import FUTUREBROKER, lines_until, run, running
from tests.integration.test_cli import interrupt


def fail(number: int) -> None:
    """A task's own mistake."""
    print("looking for row", number)
    raise ValueError(f"no row {number}")


def test_tasks_are_found_after_their_cluster_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last night's run is looked at in the morning; what runs can be retried and cancelled by a query."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("FUTUREBROKER_DASHBOARD", "false")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'fb.db'}")
    with running([*FUTUREBROKER, "up", "--port", "0", "--executors", "1"], tmp_path) as program:
        found = re.search(r"worker (127\.0\.0\.1:\d+)$", "\n".join(lines_until(program, "one worker")), re.MULTILINE)
        assert found is not None
        with Client(found[1]) as client:
            done = client.map(abs, range(30))
            total = client.submit(sum, done)
            bad = client.submit(fail, 7, key="bad-1")
            held = client.submit(abs, 1, key="held-1", resources={"GPU": 1})
            wait([total, bad])
            dry = run([*FUTUREBROKER, "cancel", "held", "--dry-run", "--address", found[1]], tmp_path)
            assert "would cancel 1 tasks" in dry.stdout, dry.stderr
            assert not held.done()
            assert "cancel 1 tasks" in run([*FUTUREBROKER, "cancel", "held", "--address", found[1]], tmp_path).stdout
            with pytest.raises(CancelledError, match="by an operator"):
                held.result(timeout=30)
            with history(None, None, None, None) as lookup:
                while not lookup.search("state:failed")["total"]:
                    wait(client.map(abs, range(3)))  # each row takes a moment to be written
            again = run([*FUTUREBROKER, "retry", "error:ValueError", "--address", found[1]], tmp_path)
            assert "retry 1 tasks" in again.stdout, again.stdout + again.stderr
            key = total.key
        assert interrupt(program) == (130, "")
    failed = run([*FUTUREBROKER, "tasks", "state:failed", "row", "--json"], tmp_path)
    rows = [json.loads(line) for line in failed.stdout.splitlines()]
    assert {(row["key"], row["error_type"], row["error"]) for row in rows} == {("bad-1", "ValueError", "no row 7")}
    story = run([*FUTUREBROKER, "task", "bad-1"], tmp_path).stdout
    assert "began on up" in story
    assert 'raise ValueError(f"no row {number}")' in story
    assert "  arguments: 7\n" in story
    # By itself, and again when it was retried.
    assert story.count("\n    looking for row 7\n") == 2
    assert "abs-" in run([*FUTUREBROKER, "task", key], tmp_path).stdout
    assert "failed" in run([*FUTUREBROKER, "runs"], tmp_path).stdout
    found_graphs = [json.loads(line) for line in CliRunner().invoke(graphs, ["--json"]).stdout.splitlines()]
    whole = found_graphs[-1]  # the first: all that was submitted before the program waited
    assert {name: whole["types"][name] for name in ("sum", "fail")} == {"sum": 1, "fail": 1}
    assert whole["types"]["abs"] >= 31
    assert (whole["state"], whole["failed"], whole["cancelled"]) == ("failed", 2, 1)
    assert whole["submitted_at"] < whole["started_at"] < whole["failed_at"] <= whole["ended_at"]
    listed = CliRunner().invoke(graphs).stdout.splitlines()
    assert len(listed) == len(found_graphs)
    assert " abs, 1 " in listed[-1]
    assert "1 executors, Python" in run([*FUTUREBROKER, "workers"], tmp_path).stdout
    unknown = run([*FUTUREBROKER, "tasks", "stat:failed"], tmp_path)
    assert unknown.returncode == 1
    assert "did you mean state:" in unknown.stderr


def test_a_history_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """Another port is another file."""
    done = run([*FUTUREBROKER, "tasks", "--port", "9"], tmp_path, XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path / "futurebroker" / "default-9-history.db") in done.stderr
