"""What was an accuracy is the figure that the run's task is compared by; what else was measured stands beside it.

Columns are renamed and added, no row is rewritten: a store of any size is brought up at once.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RENAMED = (
    ("runs", "accuracy", "score"),
    ("runs", "best_accuracy", "best_score"),
    ("rounds", "accuracy", "score"),
    ("rounds", "client_accuracy", "client_score"),
    ("client_rounds", "accuracy", "score"),
    ("run_sites", "accuracy", "score"),
)


def upgrade() -> None:
    for table, old, new in RENAMED:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    for table in ("runs", "rounds", "client_rounds", "run_sites"):
        op.add_column(table, sa.Column("metrics", sa.Text(), nullable=True))
    for column in (
        sa.Column("metric", sa.Text(), nullable=False, server_default="accuracy"),
        sa.Column("larger_is_better", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("unit", sa.Text(), nullable=False, server_default="%"),
    ):
        op.add_column("runs", column)
