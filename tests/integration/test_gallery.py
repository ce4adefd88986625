"""The programs of the gallery run, on the data they name, and stay short."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.integration.programs import ROOT, run

GALLERY = ROOT / "docs" / "gallery"
#: by program, what it finds
FOUND = {
    "flights_by_carrier": "336,776 flights; late most often: F9",
    "words_of_the_standard_library": "the most frequent: self",
    "grid_search_digits": "good enough",
    "bootstrap_diabetes": "100.0% of the resamplings say that it raises the score",
    "kmeans_wine": "97% of the wines are in the group of their grower",
    "forest_of_tasks": "of the 143 cases that it has not seen are judged right",
    "imports_of_the_standard_library": "the deepest chain of imports has",
    "where_the_time_goes": "50 tasks took",
    "arrays_of_digits": "10 of 64 components explain 73.8% of the variance of 1,797 images",
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", FOUND)
def test_a_program_of_the_gallery_runs(name: str, tmp_path: Path) -> None:
    """As a reader would run it."""
    done = run([sys.executable, str(GALLERY / f"{name}.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert FOUND[name] in done.stdout


def test_the_page_lists_every_program_and_each_is_short() -> None:
    """A program that isn't listed or tested would be forgotten."""
    programs = {path.stem for path in GALLERY.glob("*.py")}
    listed = re.findall(r"\| \[(\w+)\.py\]", (GALLERY / "README.md").read_text("utf-8"))
    assert set(listed) == programs == set(FOUND)
    assert len(programs) >= 8
    assert all(len(path.read_text("utf-8").splitlines()) < 120 for path in GALLERY.glob("*.py"))
