"""What the docs promise of tests and of stability is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import futurebroker
from futurebroker import Client

ROOT = Path(__file__).parents[2]
LABELLED = {
    "beta": [
        Client.publish_dataset, Client.get_dataset, Client.unpublish_dataset, Client.list_datasets, Client.dataset_info,
        Client.datasets,
    ],
    "experimental": [
        futurebroker.get_client, futurebroker.worker_client, futurebroker.local_client, futurebroker.secede,
        futurebroker.rejoin, futurebroker.pack_environment, Client.upload_environment, Client.list_environments,
        Client.restart,
    ],
}  # fmt: skip
PAGES = {"datasets.md": "beta", "environments.md": "experimental", "from-dask.md": "experimental"}


def test_every_line_of_the_announcement_has_a_paragraph_and_tests_that_exist() -> None:
    """The table names them; one that was renamed would be missed by who reads it."""
    page = (ROOT / "docs" / "from-dask.md").read_text("utf-8")
    assert re.findall(r"^\*\*(\d+)\. ", page, re.MULTILINE) == [str(number) for number in range(1, 13)]
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    assert list(rows) == [str(number) for number in range(1, 13)]
    for tests in rows.values():
        found = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert found
        for path, name in found:
            assert f"def {name}(" in (ROOT / "tests" / path).read_text("utf-8"), f"{path} has no {name}"


def _later_names() -> list[tuple[str, str]]:
    page = (
        (ROOT / "docs/from-dask.md").read_text("utf-8").partition("## Names that came after")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| (`.*`) \| .* \| (`.*`) \|$", page, re.MULTILINE)
    return [(name, tests) for names, tests in rows for name in re.findall(r"`([\w.]+)`", names)]


@pytest.mark.parametrize(("name", "tests"), _later_names())
def test_every_name_of_dask_that_is_said_to_be_here_is_and_has_a_test(name: str, tests: str) -> None:
    """As ``futurebroker.name`` or one of its parts."""
    thing: Any = futurebroker
    for part in name.split("."):
        thing = getattr(thing, part)
    for path, test in re.findall(r"`([\w/]+\.py)::(\w+)`", tests):
        assert f"def {test}(" in (ROOT / "tests" / path).read_text("utf-8"), f"{path} has no {test}"
    assert "::" in tests


def test_what_is_said_not_to_be_here_is_not_and_what_is_instead_has_a_test() -> None:
    """Or somebody built it, and the page still sends people elsewhere."""
    page = (ROOT / "docs/from-dask.md").read_text("utf-8").partition("## What to use instead")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*`) \| .* \| (`.*`) \|$", page, re.MULTILINE)
    assert len(rows) > 3
    for names, tests in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert not hasattr(futurebroker, name)
        for path, test in re.findall(r"`([\w/]+\.py)::(\w+)`", tests):
            assert f"def {test}(" in (ROOT / "tests" / path).read_text("utf-8"), f"{path} has no {test}"


@pytest.mark.parametrize(("label", "thing"), [(label, thing) for label in LABELLED for thing in LABELLED[label]])
def test_what_may_change_says_so_in_its_docstring(label: str, thing: Any) -> None:
    """Datasets, nested tasks and environments; ``help()`` is where people look."""
    assert label in (thing.__doc__ or "").lower()


@pytest.mark.parametrize("page", PAGES)
def test_what_may_change_says_so_in_its_page(page: str) -> None:
    """As in the docstrings."""
    assert PAGES[page] in (ROOT / "docs" / page).read_text("utf-8").lower()
