"""Trailing stops; orders that belong to a bracket."""

import sqlalchemy as sa
from alembic import op

from airflow_ibkr_plugin.store.types import BigInt, ExactDecimal

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; no order of before has anything in them."""
    op.add_column("intents", sa.Column("trail_amount", ExactDecimal, nullable=True))
    op.add_column("intents", sa.Column("trail_percent", ExactDecimal, nullable=True))
    op.add_column("intents", sa.Column("parent_id", BigInt, nullable=True))
    op.add_column("intents", sa.Column("bracket", sa.String(32), nullable=True))
    op.create_index("ix_intents_parent_id", "intents", ["parent_id"])
    op.create_index("ix_intents_bracket", "intents", ["bracket"])
