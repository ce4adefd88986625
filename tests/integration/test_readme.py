"""The README's programs run: the first as pasted, the guides with their minus lines left out."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from futurebroker import LocalCluster
from tests.integration.programs import ROOT, run

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def new_side(diff: str) -> str:
    """What a diff leaves of a program."""
    return "".join(line[1:] or "\n" for line in diff.splitlines(keepends=True) if not line.startswith("-"))


def test_the_six_lines_run_as_pasted(tmp_path: Path) -> None:
    """The first thing a reader tries, in an empty file."""
    (program,) = blocks("python")
    assert len(program.strip().splitlines()) == 6
    (tmp_path / "six.py").write_text(program)
    done = run([sys.executable, "six.py"], tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("285\n", "", 0)


@pytest.mark.parametrize(
    ("number", "output"),
    [
        (0, {str(2**n) for n in range(10)}),
        (1, {"['A', 'B', 'C']"}),
        (2, {"5", "[0, 2, 4, 6, 8, 10, 12, 14, 16, 18]", "12", "90"}),
    ],
    ids=["concurrent.futures", "dask.distributed", "celery"],
)
def test_the_changed_lines_of_each_guide_make_a_program_that_runs(
    number: int, output: set[str], tmp_path: Path
) -> None:
    """Lines that don't work would lose the very readers who would change over."""
    program = new_side(blocks("diff")[number])
    with LocalCluster(executors_per_worker=1) as cluster:
        program = re.sub(r"(amqp://)?scheduler:8786", cluster.scheduler_address, program)
        done = run(
            [sys.executable, "-c", program],
            tmp_path,
            FUTUREBROKER_CLUSTER=cluster.name,
            FUTUREBROKER_SECRET=cluster.secret.decode(),
        )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == output


def test_every_command_and_file_it_names_exists() -> None:
    """A renamed script or page would leave the README behind."""
    for script in re.findall(r"^\./(scripts/\w+)", README, re.MULTILINE):
        assert (ROOT / script).stat().st_mode & 0o100
    for page in re.findall(r"\]\((\w+(?:\.md)?)\)", README):
        assert (ROOT / page).is_file()
