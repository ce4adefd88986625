"""The tables of the history: what people look up, which may lose detail under load but not what must survive.

Times are seconds since 1970: of a run's beginning by the worker's clock, else by the scheduler's. Ids rise with time,
so that the newest come first without a sort.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, String, Table, Text, text

from futurebroker.persistence.models import metadata

#: SQLite counts ids by itself only in its own integers
_ID = BigInteger().with_variant(Integer, "sqlite")

#: a scheduler's life; what its clients did in it are the tasks that name it
runs = Table(
    "runs",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("cluster", String(64), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),  #: when it last wrote
    Column("ended_at", Double, nullable=True),  #: null: it runs, or died
    Column("host", String(200), nullable=False),
    Column("version", String(40), nullable=False),
    Column("dropped", BigInteger, nullable=False, server_default=text("0")),  #: rows left out under load
    Index("ix_runs_cluster", "cluster", "id"),
)

#: tasks that ended, a row each time
tasks = Table(
    "tasks",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("run", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("type", String(200), nullable=False),
    Column("outcome", String(10), nullable=False),  #: finished, failed or cancelled
    Column("worker", String(200), nullable=False),
    Column("executor", Integer, nullable=False),
    Column("client", String(200), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("submitted_at", Double, nullable=True),
    Column("started_at", Double, nullable=True),
    Column("ended_at", Double, nullable=False),
    Column("duration", Double, nullable=True),  #: seconds in user code
    Column("nbytes", BigInteger, nullable=False),
    Column("result_type", String(200), nullable=False),
    Column("error_type", String(200), nullable=False),
    Column("error", Text, nullable=False),
    Column("traceback", Text, nullable=False),
    Column("inputs", Text, nullable=False),  #: JSON list of keys, or empty
    Index("ix_tasks_key", "key"),
    Index("ix_tasks_type", "type", "id"),
    Index("ix_tasks_ended", "ended_at"),
    Index("ix_tasks_worker", "worker", "id"),
    Index("ix_tasks_client", "client", "id"),
    # Most tasks finish; an index over the others stays small.
    Index(
        "ix_tasks_trouble",
        "outcome",
        "id",
        sqlite_where=text("outcome <> 'finished'"),
        postgresql_where=text("outcome <> 'finished'"),
    ),
)

#: what the tasks of a type came to in a run; right also where rows of `tasks` were left out
task_types = Table(
    "task_types",
    metadata,
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    Column("type", String(200), primary_key=True),
    Column("finished", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("cancelled", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),  #: in user code
    Column("nbytes", BigInteger, nullable=False),  #: of results
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
)

#: what happened to workers, clients and single runs of tasks
events = Table(
    "events",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("run", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("worker", String(200), nullable=False),
    Column("key", Text, nullable=False),
    Column("client", String(200), nullable=False),
    Column("text", Text, nullable=False),
    Index("ix_events_at", "at"),
    Index("ix_events_key", "key", sqlite_where=text("key <> ''"), postgresql_where=text("key <> ''")),
)

#: how the cluster and each worker stood at a moment
snapshots = Table(
    "snapshots",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("run", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("worker", String(200), nullable=False),  #: empty: the whole cluster
    Column("figures", Text, nullable=False),  #: JSON
    Index("ix_snapshots_at", "at"),
)

#: of runs of tasks that printed, failed or took long: what they printed, and their arguments and result in words
notes = Table(
    "task_notes",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("run", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("key", Text, nullable=False),
    Column("worker", String(200), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("output", Text, nullable=False),
    Index("ix_task_notes_key", "key"),
    Index("ix_task_notes_at", "at"),
)

#: what clients submitted together, and how far it came; in ``run`` or before
graphs = Table(
    "graphs",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("cluster", String(64), nullable=False),
    Column("graph", String(32), nullable=False),  #: digest of who submitted it, and as which
    Column("run", BigInteger, nullable=False),
    Column("client", String(200), nullable=False),
    Column("submitted_at", Double, nullable=False),
    Column("extended_at", Double, nullable=False),  #: when the last of its tasks was submitted
    Column("tasks", BigInteger, nullable=False),
    Column("types", Text, nullable=False),  #: JSON: type -> tasks
    #: ends, those of tasks that ran again counted again
    Column("finished", BigInteger, nullable=False, server_default=text("0")),
    Column("failed", BigInteger, nullable=False, server_default=text("0")),
    Column("cancelled", BigInteger, nullable=False, server_default=text("0")),
    Column("started_at", Double, nullable=True),  #: when the first of its tasks that ended had begun
    Column("failed_at", Double, nullable=True),  #: when the first failed
    Column("ended_at", Double, nullable=True),  #: when the last ended so far
    Index("ix_graphs_graph", "cluster", "graph", unique=True),
    Index("ix_graphs_submitted", "submitted_at"),
)

#: all of them, for who sweeps or counts
TABLES = (tasks, events, snapshots, notes, graphs, task_types, runs)
