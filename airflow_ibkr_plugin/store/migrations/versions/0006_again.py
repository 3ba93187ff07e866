"""Generations raised by people, notes about orders, and commands that close positions."""

import sqlalchemy as sa
from alembic import op

from airflow_ibkr_plugin.store.types import BigInt, ExactDecimal, UTCDateTime

revision = "0006"
down_revision = "0005"

Word = sa.String(32)  # holds the values of an enumeration


def upgrade() -> None:
    """Add two tables, and three columns to the commands: those that are there set a state and close all."""
    op.create_table(
        "generations",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("generation", BigInt, nullable=False),
        sa.Column("raised_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
        sa.UniqueConstraint(
            "dag_id",
            "run_id",
            "task_id",
            "con_id",
            "generation",
            name="uq_generations_dag_id_run_id_task_id_con_id_generation",
        ),
    )
    op.create_table(
        "intent_notes",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column(
            "intent_id", BigInt, sa.ForeignKey("intents.id", name="fk_intent_notes_intent_id_intents"), nullable=False
        ),
        sa.Column("kind", Word, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("noted_by", sa.String, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
    )
    op.create_index("ix_intent_notes_intent_id", "intent_notes", ["intent_id"])
    with op.batch_alter_table("trading_commands") as table:
        table.add_column(sa.Column("kind", Word, nullable=False, server_default="state"))
        table.add_column(sa.Column("symbol", sa.String, nullable=False, server_default=""))
        table.add_column(sa.Column("quantity", ExactDecimal, nullable=True))
    with op.batch_alter_table("trading_commands") as table:
        table.alter_column("kind", server_default=None)
        table.alter_column("symbol", server_default=None)
