"""Indexes for what is asked of workers and clients."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    op.create_index("ix_tasks_worker", "tasks", ["worker", "id"])
    op.create_index("ix_tasks_client", "tasks", ["client", "id"])
    op.create_index("ix_workers_joined", "workers", ["cluster", "joined_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_workers_joined", "workers")
    op.drop_index("ix_tasks_client", "tasks")
    op.drop_index("ix_tasks_worker", "tasks")
