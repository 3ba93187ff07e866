"""Reconciliations with the broker, accepted differences, splits."""

import sqlalchemy as sa
from alembic import op

from airflow_ibkr_plugin.store.types import BigInt, ExactDecimal, UTCDateTime

revision = "0004"
down_revision = "0003"

Word = sa.String(32)  # holds the values of an enumeration


def upgrade() -> None:
    """Add the tables."""
    _reconciliations()
    _accepted()
    _adjustments()


def _reconciliations() -> None:
    op.create_table(
        "reconciliations",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("gateway", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("result", Word, nullable=False),
        sa.Column("booked", BigInt, nullable=False),
        sa.Column("accepted_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index(
        "ix_reconciliations_gateway_account_result_at", "reconciliations", ["gateway", "account", "result", "at"]
    )
    op.create_table(
        "reconciliation_differences",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("reconciliation_id", BigInt, sa.ForeignKey("reconciliations.id"), nullable=False),
        sa.Column("kind", Word, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("strategies", sa.JSON, nullable=False),
        sa.Column("order_ref", sa.String, nullable=False),
        sa.Column("ours", sa.Text, nullable=False),
        sa.Column("theirs", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
    )
    op.create_index(
        "ix_reconciliation_differences_reconciliation_id", "reconciliation_differences", ["reconciliation_id"]
    )


def _accepted() -> None:
    op.create_table(
        "accepted_differences",
        sa.Column("gateway", sa.String, primary_key=True),
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("accepted_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
    )
    op.create_table(
        "unexplained_positions",
        sa.Column("gateway", sa.String, primary_key=True),
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("con_id", BigInt, primary_key=True, autoincrement=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("quantity", ExactDecimal, nullable=False),
        sa.Column("set_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
    )


def _adjustments() -> None:
    op.create_table(
        "position_adjustments",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("kind", Word, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("new_shares", ExactDecimal, nullable=False),
        sa.Column("old_shares", ExactDecimal, nullable=False),
        sa.Column("paid_out", ExactDecimal, nullable=False),
        sa.Column("price", ExactDecimal, nullable=False),
        sa.Column("currency", sa.String, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("reconciliation_id", BigInt, sa.ForeignKey("reconciliations.id"), nullable=False),
    )
    op.create_index(
        "ix_position_adjustments_source_account_strategy_con_id",
        "position_adjustments",
        ["source", "account", "strategy", "con_id"],
    )
    op.create_index("ix_position_adjustments_reconciliation_id", "position_adjustments", ["reconciliation_id"])
    op.create_table(
        "noticed_splits",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("factor", sa.Double, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
    )
    op.create_index("ix_noticed_splits_con_id_at", "noticed_splits", ["con_id", "at"])
