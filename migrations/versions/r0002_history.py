"""History: runs, tasks that ended, totals of their types, events and snapshots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _id() -> sa.Column[int]:
    return sa.Column("id", _ID, primary_key=True, autoincrement=True)


def _some(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    """Make the tables of the history."""
    op.create_table(
        "runs",
        _id(),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=True),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("dropped", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_index("ix_runs_cluster", "runs", ["cluster", "id"])
    op.create_table(
        "tasks",
        _id(),
        sa.Column("run", sa.BigInteger, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("outcome", sa.String(10), nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("executor", sa.Integer, nullable=False),
        sa.Column("client", sa.String(200), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("submitted_at", sa.Double, nullable=True),
        sa.Column("started_at", sa.Double, nullable=True),
        sa.Column("ended_at", sa.Double, nullable=False),
        sa.Column("duration", sa.Double, nullable=True),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("result_type", sa.String(200), nullable=False),
        sa.Column("error_type", sa.String(200), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text, nullable=False),
        sa.Column("inputs", sa.Text, nullable=False),
    )
    op.create_index("ix_tasks_key", "tasks", ["key"])
    op.create_index("ix_tasks_type", "tasks", ["type", "id"])
    op.create_index("ix_tasks_ended", "tasks", ["ended_at"])
    _some("ix_tasks_trouble", "tasks", ["outcome", "id"], "outcome <> 'finished'")
    op.create_table(
        "task_types",
        sa.Column("run", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("type", sa.String(200), primary_key=True),
        sa.Column("finished", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("cancelled", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.Double, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
    )
    op.create_table(
        "events",
        _id(),
        sa.Column("run", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("client", sa.String(200), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("ix_events_at", "events", ["at"])
    _some("ix_events_key", "events", ["key"], "key <> ''")
    op.create_table(
        "snapshots",
        _id(),
        sa.Column("run", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
    )
    op.create_index("ix_snapshots_at", "snapshots", ["at"])


def downgrade() -> None:
    """Drop them, with what they hold."""
    for name in ("snapshots", "events", "task_types", "tasks", "runs"):
        op.drop_table(name)
