"""What runs may have cost sites by what was sent to them, whether or not a receipt came back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    whole = sa.BigInteger()
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "run_spent",
        sa.Column("run_id", key, nullable=False),
        sa.Column("site_id", key, nullable=False),
        sa.Column("epsilon", sa.Double(), nullable=False),
        sa.Column("confirmed", sa.Double(), nullable=False),
        sa.Column("unconfirmed", whole, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"]),
        sa.PrimaryKeyConstraint("run_id", "site_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("run_spent_by_site", "run_spent", ["site_id"])
