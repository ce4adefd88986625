"""What is read of the history: searches, one task's story, what ran when, totals, events and runs.

All of it is for one cluster, read in transactions of a moment; rows come as plain dicts and columns, ready to be shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Integer,
    RowMapping,
    Select,
    case,
    cast,
    func,
    or_,
    select,
    text,
)

from futurebroker.exceptions import QueryError
from futurebroker.persistence.database import is_sqlite, open_engine, reading
from futurebroker.persistence.datasets import listed
from futurebroker.persistence.history_tables import events, graphs, notes, runs, snapshots, task_types, tasks
from futurebroker.persistence.models import workers
from futurebroker.persistence.search import Condition, conditions

#: matches that a search counts at the most; more are shown as "at least"
COUNT_MOST = 100_000
#: notes of one task that an answer holds, the newest
NOTES_MOST = 10
#: events and snapshots one answer holds at the most
ROWS_MOST = 5_000
#: pieces that `stream` makes of its window
STREAM_PIECES = 1_000
#: the type of a bar that stands for tasks of several
SEVERAL = "(several)"
#: rows around a window that are looked at for tasks that reach into it
AFTER_WINDOW = 20_000
#: newest rows that are looked at for what one worker did
WORKER_ROWS = 200_000

#: what PostgreSQL tells of itself; a role may be allowed fewer connections than the server takes
_ROOM = """
SELECT pg_database_size(current_database()) AS bytes,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
       (SELECT CASE WHEN rolconnlimit >= 0 THEN rolconnlimit ELSE current_setting('max_connections')::int END
        FROM pg_roles WHERE rolname = current_user) AS connections_most
"""

_LISTED = (
    tasks.c.id, tasks.c.run, tasks.c.key, tasks.c.type, tasks.c.outcome, tasks.c.worker, tasks.c.executor,
    tasks.c.client, tasks.c.attempts, tasks.c.submitted_at, tasks.c.started_at, tasks.c.ended_at, tasks.c.duration,
    tasks.c.nbytes, tasks.c.error_type, tasks.c.error,
)  # fmt: skip


class Lookup:
    """Reads one cluster's history; may be used from any thread, and is cheap to make.

    Raises:
        DatabaseError: by every method, when the database can't be read.
    """

    def __init__(self, url: str, cluster: str) -> None:
        self.cluster = cluster
        self._engine: Engine = open_engine(url)
        self._ours = select(runs.c.id).where(runs.c.cluster == cluster)

    def close(self) -> None:
        """Let the database go."""
        self._engine.dispose()

    # -- tasks ------------------------------------------------------------------------------------------------------

    def search(self, query: str = "", after: int | None = None, most: int = 100) -> dict[str, Any]:
        """Tasks that match ``query``, see `search`, newest first.

        Args:
            after: ``next`` of the answer before.

        Returns:
            ``rows``, ``next`` (None: no more), ``total`` (how many match, `COUNT_MOST` at most), ``failed``.

        Raises:
            QueryError: the query can't be understood.
        """
        wanted = self._wanted(query)
        page = select(*_LISTED).where(*wanted).order_by(tasks.c.id.desc()).limit(most + 1)
        if after is not None:
            page = page.where(tasks.c.id < after)
        few = select(tasks.c.outcome).where(*wanted).limit(COUNT_MOST).subquery()
        is_failed = case((few.c.outcome == "failed", 1), else_=0)
        counts = select(func.count().label("total"), func.coalesce(func.sum(is_failed), 0).label("failed"))
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(page).mappings()]
            count = connection.execute(counts.select_from(few)).mappings().one()
        more = len(rows) > most
        rows = rows[:most]
        return {"rows": rows, "next": rows[-1]["id"] if more else None, **count}

    def keys(self, query: str, most: int) -> list[str]:
        """Keys of the tasks that match ``query``, newest first, each once.

        Raises:
            QueryError: the query can't be understood.
        """
        newest = func.max(tasks.c.id)
        found = select(tasks.c.key).where(*self._wanted(query)).group_by(tasks.c.key).order_by(newest.desc())
        with reading(self._engine) as connection:
            return list(connection.execute(found.limit(most)).scalars())

    def task(self, key: str) -> dict[str, Any] | None:
        """Everything that is known of a task: its last end, ends before that, its events and notes, inputs and outputs.

        Notes, the newest first, are what it printed and its arguments and result in words, where that was kept.

        None for a key that no row has.
        """
        ends = select(tasks).where(tasks.c.key == key, tasks.c.run.in_(self._ours)).order_by(tasks.c.id.desc())
        story = select(events).where(events.c.key == key, events.c.run.in_(self._ours)).order_by(events.c.id)
        noted = select(notes).where(notes.c.key == key, notes.c.run.in_(self._ours)).order_by(notes.c.id.desc())
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(ends.limit(50)).mappings()]
            if not rows:
                return None
            happened = [dict(row) for row in connection.execute(story.limit(ROWS_MOST)).mappings()]
            last = rows[0]
            last["inputs"] = json.loads(last["inputs"]) if last["inputs"] else []
            inputs = self._brief(connection, last["inputs"], last["run"])
            outputs = connection.execute(self._outputs(key, last["run"])).mappings()
            return {
                **last,
                "earlier": rows[1:],
                "events": happened,
                "notes": [dict(row) for row in connection.execute(noted.limit(NOTES_MOST)).mappings()],
                "inputs": [inputs.get(one, {"key": one, "type": "", "outcome": ""}) for one in last["inputs"]],
                "outputs": [dict(row) for row in outputs],
            }

    def _brief(self, connection: Connection, keys: Sequence[str], run: int) -> dict[str, dict[str, Any]]:
        found = select(tasks.c.key, tasks.c.type, tasks.c.outcome).where(tasks.c.key.in_(keys), tasks.c.run == run)
        return {row["key"]: dict(row) for row in connection.execute(found.order_by(tasks.c.id)).mappings()}

    def _outputs(self, key: str, run: int) -> Select[Any]:
        # The list is JSON: a key stands in it between quotes.
        names = tasks.c.inputs.contains(json.dumps(key), autoescape=True)
        return select(tasks.c.key, tasks.c.type, tasks.c.outcome).where(tasks.c.run == run, names).limit(50)

    def _wanted(self, query: str) -> list[Condition]:
        return [tasks.c.run.in_(self._ours), *conditions(query, time.time())]

    # -- what ran when ----------------------------------------------------------------------------------------------

    def stream(self, begin: float, end: float, query: str = "") -> dict[str, Any]:
        """What the executors ran between two moments, in columns, for a Gantt chart.

        Tasks on one executor that begin in the same thousandth of the window are one bar, so that the answer stays
        small for any number of tasks.

        Returns:
            ``lanes`` and ``types`` (names that columns refer to by place; `SEVERAL` is a bar of several types), and
            columns of equal length: ``lane``, ``type``, ``failed`` (0 or 1), ``start`` (seconds after ``begin``),
            ``length`` (seconds), ``count``, and ``key`` (of a bar that is one task, else empty).

        Raises:
            QueryError: the query can't be understood, or the window is empty.
        """
        if not end > begin:
            raise QueryError(f"{begin:g} to {end:g}", "the window must end after it begins")
        place = self._whole((tasks.c.started_at - begin) / ((end - begin) / STREAM_PIECES))
        failed = func.max(case((tasks.c.outcome == "failed", 1), else_=0))
        stop = func.max(tasks.c.started_at + func.coalesce(tasks.c.duration, 0.0))
        kinds = (func.min(tasks.c.type), func.max(tasks.c.type))
        lanes: dict[str, int] = {}
        types: dict[str, int] = {}
        columns: dict[str, list[Any]] = {
            name: [] for name in ("lane", "type", "failed", "start", "length", "count", "key")
        }
        with reading(self._engine) as connection:
            bars = (
                select(
                    tasks.c.worker, tasks.c.executor, *kinds, failed, func.min(tasks.c.started_at), stop, func.count(),
                    func.max(tasks.c.key),
                )
                .where(
                    self._around(connection, begin, end), tasks.c.ended_at >= begin, tasks.c.started_at < end,
                    *self._wanted(query),
                )
                .group_by(tasks.c.worker, tasks.c.executor, place)
            )  # fmt: skip
            for worker, executor, first, last, has_failed, started, stopped, count, key in connection.execute(bars):
                columns["lane"].append(lanes.setdefault(f"{worker} {executor}", len(lanes)))
                columns["type"].append(types.setdefault(first if first == last else SEVERAL, len(types)))
                columns["failed"].append(has_failed)
                columns["start"].append(round(started - begin, 6))
                columns["length"].append(round(max(stopped - started, 0.0), 6))
                columns["count"].append(count)
                columns["key"].append(key if count == 1 else "")
        return {"begin": begin, "end": end, "lanes": list(lanes), "types": list(types), **columns}

    def _around(self, connection: Connection, begin: float, end: float) -> Condition:
        """Rows are written in the order in which tasks ended: a range of ids has all of a window, and is read fast.

        Tasks that began in the window and ended long after it may be missing.
        """
        by_end = tasks.c.ended_at
        first = connection.execute(select(tasks.c.id).where(by_end >= begin).order_by(by_end).limit(1)).scalar()
        last = connection.execute(select(tasks.c.id).where(by_end < end).order_by(by_end.desc()).limit(1)).scalar()
        slack = AFTER_WINDOW
        return tasks.c.id.between((first or 0) - slack, (last or 0) + slack)

    def throughput(self, begin: float, end: float, pieces: int = 120, query: str = "") -> list[dict[str, Any]]:
        """How many tasks ended in each of ``pieces`` parts of a window: ``at`` (its begin), ``finished``, ``failed``.

        Raises:
            QueryError: the query can't be understood, or the window is empty.
        """
        if not end > begin:
            raise QueryError(f"{begin:g} to {end:g}", "the window must end after it begins")
        step = (end - begin) / pieces
        piece = self._whole((tasks.c.ended_at - begin) / step).label("piece")
        counted = (
            select(piece, tasks.c.outcome, func.count())
            .where(tasks.c.ended_at >= begin, tasks.c.ended_at < end, *self._wanted(query))
            .group_by(piece, tasks.c.outcome)
        )
        parts = [{"at": begin + number * step, "finished": 0, "failed": 0, "cancelled": 0} for number in range(pieces)]
        with reading(self._engine) as connection:
            for number, outcome, count in connection.execute(counted):
                parts[min(int(number), pieces - 1)][outcome] = count
        return parts

    def _whole(self, number: ColumnElement[Any]) -> ColumnElement[Any]:
        """Rounded down; SQLite may have been built without floor(), and its cast cuts off."""
        return cast(number, Integer) if is_sqlite(self._engine) else func.floor(number)

    # -- totals, events, figures ------------------------------------------------------------------------------------

    def types(self, run: int | None = None) -> list[dict[str, Any]]:
        """Totals of each type in a run (None: in all), the busiest first; right also where rows were left out."""
        summed = [func.sum(task_types.c[name]).label(name) for name in ("finished", "failed", "cancelled", "nbytes")]
        seconds = func.sum(task_types.c.seconds).label("seconds")
        span = (func.min(task_types.c.first_at).label("first_at"), func.max(task_types.c.last_at).label("last_at"))
        found = select(task_types.c.type, *summed, seconds, *span).group_by(task_types.c.type).order_by(seconds.desc())
        found = found.where(task_types.c.run.in_(self._ours) if run is None else task_types.c.run == run)
        with reading(self._engine) as connection:
            return [_plain(row) for row in connection.execute(found).mappings()]

    def events(self, kind: str = "", worker: str = "", after: int | None = None, most: int = 200) -> dict[str, Any]:
        """What happened, newest first: ``rows`` and ``next``, as of `search`. ``kind`` may end with ``*``."""
        found = select(events).where(events.c.run.in_(self._ours)).order_by(events.c.id.desc())
        if kind:
            found = found.where(or_(*(_kind(one) for one in kind.split(","))))
        if worker:
            found = found.where(events.c.worker == worker)
        if after is not None:
            found = found.where(events.c.id < after)
        most = min(most, ROWS_MOST)
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(found.limit(most + 1)).mappings()]
        more = len(rows) > most
        return {"rows": rows[:most], "next": rows[most - 1]["id"] if more else None}

    def figures(self, begin: float, end: float, worker: str | None = None) -> list[dict[str, Any]]:
        """How the cluster ("") or a worker stood between two moments, oldest first; None is all of them.

        Of many, every n-th is given, so that the answer has `ROWS_MOST` at the most.
        """
        within = [snapshots.c.at >= begin, snapshots.c.at < end, snapshots.c.run.in_(self._ours)]
        if worker is not None:
            within.append(snapshots.c.worker == worker)
        with reading(self._engine) as connection:
            count = connection.execute(select(func.count()).select_from(snapshots).where(*within)).scalar_one()
            moments = count // ROWS_MOST + 1
            found = select(snapshots.c.at, snapshots.c.worker, snapshots.c.figures).where(*within)
            rows = connection.execute(found.order_by(snapshots.c.id)).all()
        kept = {at for number, at in enumerate(dict.fromkeys(row.at for row in rows)) if number % moments == 0}
        return [{"at": row.at, "worker": row.worker, **json.loads(row.figures)} for row in rows if row.at in kept]

    def worker(self, name: str) -> dict[str, Any] | None:
        """What one worker did: counts of its tasks by type, when it came and went; None for one nobody heard of."""
        newest = select(func.coalesce(func.max(tasks.c.id), 0)).scalar_subquery()
        seconds = func.sum(tasks.c.duration).label("seconds")
        by_type = (
            select(tasks.c.type, tasks.c.outcome, func.count().label("count"), seconds)
            .where(tasks.c.worker == name, tasks.c.id > newest - WORKER_ROWS, tasks.c.run.in_(self._ours))
            .group_by(tasks.c.type, tasks.c.outcome)
        )
        with reading(self._engine) as connection:
            counts = [_plain(row) for row in connection.execute(by_type).mappings()]
        happened, lives = self.events(worker=name)["rows"], self.workers(name=name)
        if not (counts or happened or lives):
            return None
        return {"name": name, "tasks": counts, "events": happened, "lives": lives}

    def workers(self, most: int = 200, name: str | None = None) -> list[dict[str, Any]]:
        """The workers that are or were there, newest first, or those called ``name``: what they said of themselves,
        ``joined_at``, and ``left_at`` (None: not that anybody saw)."""
        found = select(workers).where(workers.c.cluster == self.cluster).order_by(workers.c.joined_at.desc())
        if name is not None:
            found = found.where(workers.c.name == name)
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(found.limit(most)).mappings()]
        return [{**row, "about": json.loads(row["about"])} for row in rows]

    def datasets(self) -> list[dict[str, Any]]:
        """What is published, by name; in the database that has the journal."""
        return listed(self._engine, self.cluster)

    def graphs(self, most: int = 100, run: int | None = None) -> list[dict[str, Any]]:
        """What clients submitted together, newest first, also that of one run alone.

        Beside the table's columns, ``state`` says whether it is ``unfinished``, or ``finished``, ``failed`` or
        ``cancelled`` because one of its tasks is. Of a scheduler that was killed the last ends may be missing.
        """
        found = select(graphs).where(graphs.c.cluster == self.cluster).order_by(graphs.c.id.desc()).limit(most)
        if run is not None:
            found = found.where(graphs.c.run == run)
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(found).mappings()]
        return [{**row, "types": json.loads(row["types"]), "state": _state(row)} for row in rows]

    # -- runs -------------------------------------------------------------------------------------------------------

    def runs(self, most: int = 100) -> list[dict[str, Any]]:
        """Schedulers' lives, newest first, with what their tasks came to."""
        summed = [
            func.coalesce(func.sum(task_types.c[name]), 0).label(name) for name in ("finished", "failed", "cancelled")
        ]
        seconds = func.coalesce(func.sum(task_types.c.seconds), 0.0).label("seconds")
        found = (
            select(runs, *summed, seconds)
            .outerjoin(task_types, task_types.c.run == runs.c.id)
            .where(runs.c.cluster == self.cluster)
            .group_by(*runs.c)
            .order_by(runs.c.id.desc())
            .limit(most)
        )
        with reading(self._engine) as connection:
            return [_plain(row) for row in connection.execute(found).mappings()]

    def clients(self, run: int) -> list[dict[str, Any]]:
        """The clients of a run, with what they had run and from when to when."""
        found = (
            select(
                tasks.c.client,
                func.count().label("tasks"),
                func.sum(case((tasks.c.outcome == "failed", 1), else_=0)).label("failed"),
                func.min(tasks.c.submitted_at).label("first_at"),
                func.max(tasks.c.ended_at).label("last_at"),
            )
            .where(tasks.c.run == run, tasks.c.client != "")
            .group_by(tasks.c.client)
            .order_by(func.max(tasks.c.ended_at).desc())
        )
        with reading(self._engine) as connection:
            return [_plain(row) for row in connection.execute(found).mappings()]

    def about(self) -> dict[str, Any]:
        """How much there is: runs, tasks, the oldest moment, rows left out under load, and the room there is.

        ``bytes`` is the size of all of the database; ``connections`` are those that are open to it, of at most
        ``connections_most``, where it is a server that tells.
        """
        with reading(self._engine) as connection:
            kept = (
                connection.execute(
                    select(func.count().label("tasks"), func.min(tasks.c.ended_at).label("oldest")).where(
                        tasks.c.run.in_(self._ours)
                    )
                )
                .mappings()
                .one()
            )
            lives = (
                connection.execute(
                    select(
                        func.count().label("runs"), func.coalesce(func.sum(runs.c.dropped), 0).label("dropped")
                    ).where(runs.c.cluster == self.cluster)
                )
                .mappings()
                .one()
            )
            room = self._room(connection)
        return {**_plain(kept), **_plain(lives), **room}

    def _room(self, connection: Connection) -> dict[str, int]:
        if is_sqlite(self._engine):
            pages, size = (
                connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size")
            )
            return {"bytes": pages * size}
        if connection.dialect.name != "postgresql":
            return {}
        found = connection.execute(text(_ROOM)).mappings().one()
        return {name: int(value) for name, value in found.items()}


def _state(graph: dict[str, Any]) -> str:
    if graph["finished"] + graph["failed"] + graph["cancelled"] < graph["tasks"]:
        return "unfinished"
    return "failed" if graph["failed"] else "cancelled" if graph["cancelled"] else "finished"


def _kind(kind: str) -> Condition:
    return events.c.kind.startswith(kind[:-1], autoescape=True) if kind.endswith("*") else events.c.kind == kind


def _plain(row: RowMapping) -> dict[str, Any]:
    """PostgreSQL's sums of whole numbers are decimals, which JSON doesn't know."""
    return {
        name: value
        if value is None or isinstance(value, (str, int, float))
        else int(value)
        if value == int(value)
        else float(value)
        for name, value in row.items()
    }
