"""The place at which a test of links runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.links import Place, place_of


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The broker of the link that the test is parametrized with by `links.on`."""
    with place_of(request.param) as place:
        yield place
