"""Kept results that have left the scheduler's memory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "kept_results",
        sa.Column("cluster", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("ends_at", sa.Double, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_kept_results_ends", "kept_results", ["cluster", "ends_at"])


def downgrade() -> None:
    """Drop it, with what it holds."""
    op.drop_table("kept_results")
