"""Executions that IBKR has taken back stay on record, and count no more."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add a column; what is there stands."""
    op.add_column("executions", sa.Column("taken_back_on", sa.Date, nullable=True))
