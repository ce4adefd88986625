"""The ledger of executions: an SQLite file with one row for each time a task began, written by the task itself."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

#: seconds to wait for another writer; one that is killed lets go at once
_PATIENCE = 30.0

_connections = threading.local()


class _Connection(sqlite3.Connection):
    """Closes itself when its thread has ended, in whichever thread that is noticed."""

    def __del__(self) -> None:
        self.close()


def write_down(path: str, key: str) -> None:
    """Note in the ledger at ``path`` that ``key`` begins here and now; called by tasks."""
    connection = getattr(_connections, path, None)
    if connection is None:
        connection = sqlite3.connect(
            path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, factory=_Connection
        )
        connection.execute("PRAGMA synchronous = OFF")  # processes are killed here, not machines
        setattr(_connections, path, connection)
    connection.execute("INSERT INTO executions VALUES (?, ?, ?)", (key, os.getpid(), time.time()))


class Ledger:
    """What was executed, and by whom."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "ledger.sqlite")
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE executions (key TEXT, pid INTEGER, time REAL)")

    def rows(self) -> list[tuple[str, int, float]]:
        """Key, process and wall-clock time of every execution, in the order they began."""
        with self._open() as connection:
            return connection.execute("SELECT key, pid, time FROM executions ORDER BY rowid").fetchall()

    def count(self, key: str) -> int:
        """How often ``key`` was begun."""
        with self._open() as connection:
            (number,) = connection.execute("SELECT count(*) FROM executions WHERE key = ?", (key,)).fetchone()
            return int(number)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as connection:
            yield connection
