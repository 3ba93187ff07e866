"""Limits of accounts with their history; the number of each booking in an account; its highest values by day."""

from datetime import date
from decimal import Decimal
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from alembic import op

from airflow_ibkr_plugin.store.types import BigInt, ExactDecimal, UTCDateTime

revision = "0005"
down_revision = "0004"

_BROKER_ZONE = ZoneInfo("America/New_York")


def upgrade() -> None:
    """Add the tables and columns; the peaks begin with the snapshots that there are."""
    op.create_table(
        "limit_changes",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("rule", sa.String, nullable=False),
        sa.Column("old_parameters", sa.JSON, nullable=True),
        sa.Column("new_parameters", sa.JSON, nullable=True),
        sa.Column("until", UTCDateTime, nullable=True),
        sa.Column("changed_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
        sa.Column("live", sa.Boolean, nullable=False),
        sa.Column("ended_id", BigInt, sa.ForeignKey("limit_changes.id"), nullable=True),
    )
    op.create_index("ix_limit_changes_live_account", "limit_changes", ["live", "account"])
    op.create_table(
        "account_bookings",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("booked", BigInt, nullable=False),
    )
    op.add_column("executions", sa.Column("booking", BigInt, nullable=True))
    op.create_index("ix_executions_account_booking", "executions", ["account", "booking"])
    op.create_index("ix_intents_account_broker_day", "intents", ["account", "broker_day"])
    _peaks()


def _peaks() -> None:
    peaks = op.create_table(
        "account_peaks",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("currency", sa.String, primary_key=True),
        sa.Column("value", ExactDecimal, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
    )
    snapshots = sa.table(
        "account_snapshots",
        sa.column("source", sa.String),
        sa.column("account", sa.String),
        sa.column("currency", sa.String),
        sa.column("at", UTCDateTime),
        sa.column("net_liquidation", ExactDecimal),
    )
    highest: dict[tuple[str, str, date, str], tuple[Decimal, object]] = {}
    for row in op.get_bind().execute(sa.select(snapshots)):
        day = row.at.astimezone(_BROKER_ZONE).date()
        key = (row.source.partition(":")[0], row.account, day, row.currency)
        if key not in highest or row.net_liquidation > highest[key][0]:
            highest[key] = (row.net_liquidation, row.at)
    op.bulk_insert(
        peaks,
        [
            {"kind": kind, "account": account, "day": day, "currency": currency, "value": value, "at": at}
            for (kind, account, day, currency), (value, at) in highest.items()
        ],
    )
