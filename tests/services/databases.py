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


def set_read_only(url: str, *, on: bool) -> None:
    """Let sessions of a database write no more, as those of a replica, or write again; ends those that there are."""
    name = urlsplit(url).path[1:]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        setting = "on" if on else "off"
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {setting}".encode())
        if on:  # those that are connected could go on
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
            connection.execute(others, (name, connection.info.backend_pid))
