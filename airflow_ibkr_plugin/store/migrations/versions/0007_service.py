"""What the service asks for every few seconds has indexes: intents that are not over, fills without a commission."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_RESERVING = sa.text("state IN ('ambiguous', 'cancelling', 'reserved', 'sending', 'working')")
_UNPAID = sa.text("commission IS NULL")


def upgrade() -> None:
    """Add two partial indexes."""
    op.create_index("ix_intents_state", "intents", ["state"], sqlite_where=_RESERVING, postgresql_where=_RESERVING)
    op.create_index(
        "ix_executions_booked_at", "executions", ["booked_at"], sqlite_where=_UNPAID, postgresql_where=_UNPAID
    )
