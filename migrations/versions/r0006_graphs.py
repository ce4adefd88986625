"""Published datasets, and graphs that were submitted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "datasets",
        sa.Column("cluster", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("parts", sa.Integer, nullable=False),
        sa.Column("persist", sa.String(20), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("client", sa.String(200), nullable=False),
        sa.Column("program", sa.String(500), nullable=False),
        sa.Column("published_at", sa.Double, nullable=False),
        sa.Column("graph", sa.String(64), nullable=False),
        sa.Column("graph_tasks", sa.Integer, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
    )
    op.create_table(
        "graphs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("graph", sa.String(32), nullable=False),
        sa.Column("run", sa.BigInteger, nullable=False),
        sa.Column("client", sa.String(200), nullable=False),
        sa.Column("submitted_at", sa.Double, nullable=False),
        sa.Column("extended_at", sa.Double, nullable=False),
        sa.Column("tasks", sa.BigInteger, nullable=False),
        sa.Column("types", sa.Text, nullable=False),
        sa.Column("finished", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("failed", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("cancelled", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("started_at", sa.Double, nullable=True),
        sa.Column("failed_at", sa.Double, nullable=True),
        sa.Column("ended_at", sa.Double, nullable=True),
    )
    op.create_index("ix_graphs_graph", "graphs", ["cluster", "graph"], unique=True)
    op.create_index("ix_graphs_submitted", "graphs", ["submitted_at"])


def downgrade() -> None:
    """Drop them, with what they hold."""
    op.drop_table("graphs")
    op.drop_table("datasets")
