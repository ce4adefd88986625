"""Databases of a test's own at the PostgreSQL server that runs for all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg


@contextlib.contextmanager
def new_database() -> Iterator[str]:
    """The URL of an empty database, dropped at the end."""
    server = os.environ["FUTUREBROKER_TEST_POSTGRES_URL"]
    name = f"fbtest_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
