"""What a run is one of: its comparison, method, changed settings and seed.

The seed of runs from before is in their recipe; the rest nobody had written down.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

LARGEST = 2**63 - 1
runs = sa.table("runs", sa.column("id", sa.BigInteger), sa.column("recipe", sa.Text), sa.column("seed", sa.BigInteger))


def upgrade() -> None:
    for name in ("group", "method", "changed"):
        op.add_column("runs", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("seed", sa.BigInteger(), nullable=True))
    op.create_index("runs_by_group", "runs", ["group"])
    connection = op.get_bind()
    found = [(row.id, seed_of(row.recipe)) for row in connection.execute(sa.select(runs.c.id, runs.c.recipe))]
    known = [{"of": row, "is": seed} for row, seed in found if seed is not None]
    if known:
        connection.execute(runs.update().where(runs.c.id == sa.bindparam("of")).values(seed=sa.bindparam("is")), known)


def seed_of(recipe: str) -> int | None:
    """None where the recipe has none that a column can hold."""
    try:
        seed = json.loads(recipe)["seed"]
    except (ValueError, KeyError, TypeError):
        return None
    return seed if isinstance(seed, int) and abs(seed) <= LARGEST else None
