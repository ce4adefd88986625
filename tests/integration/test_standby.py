"""A standby takes over from a leader that is dead, and from one that only stood still, which then can write nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.killable import free_port
from tests.integration.programs import FUTUREBROKER, lines_until, run, running
from tests.integration.takeovers import kill, stand_still, take_over

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_standby_goes_on_in_place_of_a_leader_that_was_killed(tmp_path: Path) -> None:
    """By itself, and with what the leader knew."""
    code, _ = take_over(tmp_path, f"sqlite:///{tmp_path}/journal.db", kill)
    assert code == -signal.SIGKILL


def test_a_leader_that_stood_still_finds_that_it_leads_no_more(tmp_path: Path) -> None:
    """It wakes up in the belief that it leads; what it writes then must not count."""
    code, said = take_over(tmp_path, f"sqlite:///{tmp_path}/journal.db", stand_still)
    assert code == 1
    assert "another scheduler leads" in said


def test_a_second_scheduler_on_one_file_is_refused(tmp_path: Path) -> None:
    """SQLite has one writer's place, and two schedulers would take it from each other."""
    variables = {"FUTUREBROKER_SECRET": "s" * 32, "FUTUREBROKER_DATABASE_URL": f"sqlite:///{tmp_path}/journal.db"}
    with running([*FUTUREBROKER, "scheduler", "--port", str(free_port())], tmp_path, **variables) as first:
        lines_until(first, "stop with")
        other = [*FUTUREBROKER, "scheduler", "--port", str(free_port()), "--cluster", "other"]
        second = run(other, tmp_path, **variables)
        assert second.returncode == 1
        assert f"process {first.pid}" in second.stderr
        assert "--standby" in second.stderr
        first.terminate()
        assert first.wait(30) == 0


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"DYNO": "web.1"}, "disk is thrown away"),
        ({"FUTUREBROKER_JOURNAL": "full"}, "name a PostgreSQL server"),
        ({"FUTUREBROKER_DATABASE_URL": "sqlite:////proc/nowhere/journal.db"}, "can't be made"),
        ({"FUTUREBROKER_DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/none"}, "start the server"),
        ({"FUTUREBROKER_DATABASE_URL": "mysql://h/d"}, "it must be a URL like"),
    ],
)
def test_a_database_that_cannot_keep_anything_is_refused_with_what_to_do(
    tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    """At the start, and not when the work is lost."""
    database = {"FUTUREBROKER_DATABASE_URL": f"sqlite:///{tmp_path}/journal.db"}
    command = [*FUTUREBROKER, "scheduler", "--port", str(free_port())]
    ended = run(command, tmp_path, FUTUREBROKER_SECRET="s" * 32, **{**database, **variables})
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "secret@" not in ended.stderr
