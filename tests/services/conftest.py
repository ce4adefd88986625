"""The place at which a test of links runs, and databases of a test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from futurebroker.persistence.database import open_engine
from tests.services.databases import new_database
from tests.services.links import Place, place_of


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The broker of the link that the test is parametrized with by `links.on`."""
    with place_of(request.param) as place:
        yield place


@pytest.fixture
def postgres_engine() -> Iterator[Engine]:
    """An engine for an empty PostgreSQL database."""
    with new_database() as url:
        engine = open_engine(url)
        yield engine
        engine.dispose()
