"""The command `futurebroker`, whose SQLite files can't be written while the file MARK is there:
``python -m tests.integration.readonly_scheduler MARK ...``. SQLite itself refuses, with the error of a disk that was
remounted so.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from futurebroker.cli.main import main


def obey(mark: Path) -> None:
    """Have all connections look at the mark before each statement."""

    def before(_connection: Any, cursor: sqlite3.Cursor, *_: Any) -> None:
        cursor.connection.execute(f"PRAGMA query_only = {int(mark.exists())}")

    event.listen(Engine, "before_cursor_execute", before)


if __name__ == "__main__":
    obey(Path(sys.argv.pop(1)))
    main()
