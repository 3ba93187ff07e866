"""Trading states, the service's leadership, the shared pacing budget, and risk over the whole account."""

import sqlalchemy as sa
from alembic import op

from airflow_ibkr_plugin.store.types import BigInt, UTCDateTime

revision = "0002"
down_revision = "0001"

Word = sa.String(32)  # holds the values of an enumeration


def upgrade() -> None:
    """Add the tables, and rebuild the pacing events, whose columns nothing wrote before."""
    if sa.inspect(op.get_bind()).has_table("trading_states"):
        return  # databases of a few early commits got all of this from their 0001
    _trading_states()
    _pacing()
    op.create_table(
        "leaders",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("fence", BigInt, nullable=False),
        sa.Column("since", UTCDateTime, nullable=False),
        sa.Column("until", UTCDateTime, nullable=False),
    )
    op.drop_index("ix_runs_strategy", "runs")
    op.drop_index("ix_intents_source_account_con_id_state", "intents")
    op.drop_column("intents", "reserved_notional")
    op.create_index("ix_intents_account_state", "intents", ["account", "state"])
    op.create_index("ix_intents_account_sent_at", "intents", ["account", "sent_at"])
    op.create_index("ix_executions_account_strategy_time", "executions", ["account", "strategy", "time"])


def _trading_states() -> None:
    op.create_table(
        "trading_states",
        sa.Column("strategy", sa.String, primary_key=True),
        sa.Column("state", Word, nullable=False),
        sa.Column("version", BigInt, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changed_by", sa.String, nullable=False),
        sa.Column("changed_at", UTCDateTime, nullable=False),
    )
    op.create_table(
        "trading_state_changes",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("old_state", Word, nullable=False),
        sa.Column("new_state", Word, nullable=False),
        sa.Column("changed_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
    )
    op.create_index("ix_trading_state_changes_strategy", "trading_state_changes", ["strategy"])
    op.create_table(
        "trading_commands",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("flatten", sa.Boolean, nullable=False),
        sa.Column("last_intent_id", BigInt, nullable=False),
        sa.Column("requested_by", sa.String, nullable=False),
        sa.Column("requested_at", UTCDateTime, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("cancelled_at", UTCDateTime, nullable=True),
        sa.Column("flat_at", UTCDateTime, nullable=True),
        sa.Column("ended_at", UTCDateTime, nullable=True),
        sa.Column("last_error", sa.Text, nullable=False),
    )


def _pacing() -> None:
    op.drop_table("pacing_events")
    op.create_table(
        "pacing_events",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("gateway", sa.String, nullable=False),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("code", BigInt, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("sent_at", UTCDateTime, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
    )
    op.create_index("ix_pacing_events_gateway_at", "pacing_events", ["gateway", "at"])
    op.create_table(
        "pacing_requests",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("gateway", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("series", sa.String, nullable=False),
        sa.Column("weight", BigInt, nullable=False),
        sa.Column("asked_at", UTCDateTime, nullable=False),
        sa.Column("sent_at", UTCDateTime, nullable=True),
        sa.Column("until", UTCDateTime, nullable=False),
    )
    op.create_index("ix_pacing_requests_gateway_until", "pacing_requests", ["gateway", "until"])
