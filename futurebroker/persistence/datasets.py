"""The table of published datasets: written with the journal's rows, read by whoever asks while no scheduler runs.

What must survive of a dataset is in the journal. This is for people and for SQL, and is changed in the transaction of
the journal's row that says the same, so that the two never disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, String, delete, insert, select

from futurebroker.persistence.database import reading
from futurebroker.persistence.models import datasets

#: a dataset as the scheduler tells it, by column; None: it is there no more
Row = Mapping[str, Any]
#: rows that one statement takes away
AT_ONCE = 500


def change(connection: Connection, cluster: str, rows: Mapping[str, Row | None]) -> None:
    """Put ``rows``, by name, in place of what is there of these names; part of the caller's transaction."""
    names = list(rows)
    for first in range(0, len(names), AT_ONCE):
        some = names[first : first + AT_ONCE]
        connection.execute(delete(datasets).where(datasets.c.cluster == cluster, datasets.c.name.in_(some)))
    put = [_storable(cluster, name, row) for name, row in rows.items() if row is not None]
    if put:
        connection.execute(insert(datasets), put)


def outdated(engine: Engine, cluster: str, rows: Mapping[str, Row]) -> dict[str, Row | None]:
    """What has to change for the table to say just ``rows``: a scheduler of a version without it may have led.

    Raises:
        DatabaseError: it can't be read.
    """
    with reading(engine) as connection:
        found = connection.execute(select(datasets).where(datasets.c.cluster == cluster)).mappings()
        there = {row["name"]: dict(row) for row in found}
    changes: dict[str, Row | None] = {name: None for name in there if name not in rows}
    changes.update((name, row) for name, row in rows.items() if there.get(name) != _storable(cluster, name, row))
    return changes


def listed(engine: Engine, cluster: str) -> list[dict[str, Any]]:
    """What is published, by name, with the same names as `Client.dataset_info` where both know something.

    Raises:
        DatabaseError: it can't be read.
    """
    query = select(datasets).where(datasets.c.cluster == cluster).order_by(datasets.c.name)
    with reading(engine) as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    for row in rows:
        del row["cluster"]
        row["when"] = row.pop("published_at")
        row["persist"] = row["persist"] or None
        row["graph"] = row["graph"] or None
        row["environment"] = json.loads(row["environment"])
    return rows


def _storable(cluster: str, name: str, row: Row) -> dict[str, Any]:
    """Cut to what the columns take: a publisher's words must not keep the journal from being written."""
    made = {"cluster": cluster, "name": name, **row, "environment": json.dumps(row["environment"])}
    for column in datasets.columns:
        value = made[column.name]
        if isinstance(value, str):
            value = value.replace("\0", "").encode(errors="replace").decode()
            made[column.name] = value[: column.type.length] if isinstance(column.type, String) else value
    return made
