"""The first schema."""

import sqlalchemy as sa
from alembic import op

from airflow_ibkr_plugin.store.types import BigInt, ExactDecimal, UTCDateTime

revision = "0001"
down_revision = None

Word = sa.String(32)  # holds the values of an enumeration


def upgrade() -> None:
    """Make all tables. There is no way down: restore a backup instead."""
    op.create_table(
        "account_snapshots",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
        sa.Column("currency", sa.String, nullable=False),
        sa.Column("net_liquidation", ExactDecimal, nullable=False),
        sa.Column("cash", ExactDecimal, nullable=False),
        sa.Column("buying_power", ExactDecimal, nullable=False),
        sa.Column("values", sa.JSON, nullable=False),
        sa.Column("positions", sa.JSON, nullable=False),
        sa.Column("simulated", sa.Boolean, nullable=False),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
    )
    op.create_index("ix_account_snapshots_dag_id_run_id", "account_snapshots", ["dag_id", "run_id"])
    op.create_index("ix_account_snapshots_source_account", "account_snapshots", ["source", "account"])
    op.create_table(
        "alerts",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("dedupe_key", sa.String, nullable=False, unique=True),
        sa.Column("severity", sa.String, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.Column("attempts", BigInt, nullable=False),
        sa.Column("next_attempt_at", UTCDateTime, nullable=False),
        sa.Column("delivered_at", UTCDateTime, nullable=True),
        sa.Column("last_error", sa.Text, nullable=False),
    )
    op.create_index("ix_alerts_delivered_at_next_attempt_at", "alerts", ["delivered_at", "next_attempt_at"])
    op.create_table(
        "bars",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("con_id", BigInt, primary_key=True, autoincrement=False),
        sa.Column("bar_size", sa.String, primary_key=True),
        sa.Column("what", sa.String, primary_key=True),
        sa.Column("use_rth", sa.Boolean, primary_key=True),
        sa.Column("time", UTCDateTime, primary_key=True),
        sa.Column("open", sa.Double, nullable=False),
        sa.Column("high", sa.Double, nullable=False),
        sa.Column("low", sa.Double, nullable=False),
        sa.Column("close", sa.Double, nullable=False),
        sa.Column("volume", sa.Double, nullable=False),
        sa.Column("wap", sa.Double, nullable=False),
        sa.Column("count", BigInt, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "charts",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("size_bytes", BigInt, nullable=False),
        sa.Column("width", BigInt, nullable=False),
        sa.Column("height", BigInt, nullable=False),
        sa.Column("bar_size", sa.String, nullable=False),
        sa.Column("first_bar", UTCDateTime, nullable=False),
        sa.Column("last_bar", UTCDateTime, nullable=False),
        sa.Column("indicators", sa.JSON, nullable=False),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
    )
    op.create_index("ix_charts_dag_id_run_id", "charts", ["dag_id", "run_id"])
    op.create_index("ix_charts_dag_id_symbol", "charts", ["dag_id", "symbol"])
    op.create_table(
        "client_leases",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("client_id", BigInt, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("until", UTCDateTime, nullable=False),
    )
    op.create_table(
        "contract_pins",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("spec_key", sa.String, primary_key=True),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("instrument", sa.JSON, nullable=False),
        sa.Column("pinned_at", UTCDateTime, nullable=False),
    )
    op.create_table(
        "failures",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("map_index", BigInt, nullable=False),
        sa.Column("try_number", BigInt, nullable=False),
        sa.Column("family", sa.String, nullable=False),
        sa.Column("error_type", sa.String, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text, nullable=False),
        sa.Column("log_url", sa.String, nullable=False),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
        sa.UniqueConstraint("dag_id", "run_id", "task_id", "map_index", "try_number"),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "order_ids",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("client_id", BigInt, primary_key=True, autoincrement=False),
        sa.Column("next_id", BigInt, nullable=False),
    )
    op.create_table(
        "overrides",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("version", BigInt, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("author", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.UniqueConstraint("strategy", "version"),
    )
    op.create_table(
        "pacing_events",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("code", BigInt, nullable=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("waited_seconds", sa.Double, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
    )
    op.create_index("ix_pacing_events_source_at", "pacing_events", ["source", "at"])
    op.create_table(
        "positions",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("strategy", sa.String, primary_key=True),
        sa.Column("con_id", BigInt, primary_key=True, autoincrement=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("sec_type", sa.String, nullable=False),
        sa.Column("currency", sa.String, nullable=False),
        sa.Column("quantity", ExactDecimal, nullable=False),
        sa.Column("average_cost", ExactDecimal, nullable=False),
        sa.Column("realized_pnl", ExactDecimal, nullable=True),
        sa.Column("updated_at", UTCDateTime, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("config_hash", sa.String, nullable=False),
        sa.Column("simulated_clock", sa.Boolean, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("started_at", UTCDateTime, nullable=False),
        sa.Column("ended_at", UTCDateTime, nullable=True),
        sa.Column("mlflow_experiment", sa.String, nullable=True),
        sa.Column("mlflow_experiment_id", sa.String, nullable=True),
        sa.Column("mlflow_run_id", sa.String, nullable=True),
        sa.Column("claim_owner", sa.String, nullable=True),
        sa.Column("claim_until", UTCDateTime, nullable=True),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.UniqueConstraint("dag_id", "run_id"),
    )
    op.create_index("ix_runs_strategy", "runs", ["strategy"])
    op.create_table(
        "tracking_outbox",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("dedupe_key", sa.String, nullable=True, unique=True),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.Column("attempts", BigInt, nullable=False),
        sa.Column("next_attempt_at", UTCDateTime, nullable=False),
        sa.Column("sent_at", UTCDateTime, nullable=True),
        sa.Column("last_error", sa.Text, nullable=False),
    )
    op.create_index("ix_tracking_outbox_sent_at_dag_id_run_id", "tracking_outbox", ["sent_at", "dag_id", "run_id"])
    op.create_table(
        "signals",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("action", Word, nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("entry", sa.Double, nullable=True),
        sa.Column("stop", sa.Double, nullable=True),
        sa.Column("target", sa.Double, nullable=True),
        sa.Column("horizon_days", BigInt, nullable=True),
        sa.Column("rationale", sa.Text, nullable=False),
        sa.Column("analyst", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("is_llm", sa.Boolean, nullable=False),
        sa.Column("prompt_name", sa.String, nullable=False),
        sa.Column("prompt_version", sa.String, nullable=False),
        sa.Column("prompt_sha256", sa.String, nullable=False),
        sa.Column("chart_id", BigInt, sa.ForeignKey("charts.id"), nullable=True),
        sa.Column("as_of", UTCDateTime, nullable=False),
        sa.Column("raw", sa.Text, nullable=False),
        sa.Column("usage", sa.JSON, nullable=False),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
    )
    op.create_index("ix_signals_dag_id_run_id", "signals", ["dag_id", "run_id"])
    op.create_index("ix_signals_dag_id_symbol", "signals", ["dag_id", "symbol"])
    op.create_table(
        "intents",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("order_ref", sa.String, nullable=False, unique=True),
        sa.Column("installation", sa.String, nullable=False),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("instrument", sa.JSON, nullable=False),
        sa.Column("leg", sa.String, nullable=False),
        sa.Column("generation", BigInt, nullable=False),
        sa.Column("signal_id", BigInt, sa.ForeignKey("signals.id"), nullable=True),
        sa.Column("side", Word, nullable=False),
        sa.Column("quantity", ExactDecimal, nullable=False),
        sa.Column("requested_quantity", ExactDecimal, nullable=False),
        sa.Column("order_type", Word, nullable=False),
        sa.Column("limit_price", ExactDecimal, nullable=True),
        sa.Column("stop_price", ExactDecimal, nullable=True),
        sa.Column("tif", Word, nullable=False),
        sa.Column("outside_rth", sa.Boolean, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("reference_price", ExactDecimal, nullable=True),
        sa.Column("reserved_notional", ExactDecimal, nullable=True),
        sa.Column("currency", sa.String, nullable=False),
        sa.Column("broker_day", sa.Date, nullable=True),
        sa.Column("client_id", BigInt, nullable=True),
        sa.Column("order_id", BigInt, nullable=True),
        sa.Column("perm_id", BigInt, nullable=True),
        sa.Column("lease_owner", sa.String, nullable=True),
        sa.Column("lease_until", UTCDateTime, nullable=True),
        sa.Column("sent_at", UTCDateTime, nullable=True),
        sa.Column("created_at", UTCDateTime, nullable=False),
        sa.Column("updated_at", UTCDateTime, nullable=False),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
    )
    op.create_index("ix_intents_dag_id_run_id", "intents", ["dag_id", "run_id"])
    op.create_index("ix_intents_source_account_con_id_state", "intents", ["source", "account", "con_id", "state"])
    op.create_index("ix_intents_strategy_broker_day", "intents", ["strategy", "broker_day"])
    op.create_table(
        "executions",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("exec_id", sa.String, primary_key=True),
        sa.Column("intent_id", BigInt, sa.ForeignKey("intents.id"), nullable=True),
        sa.Column("order_ref", sa.String, nullable=False),
        sa.Column("perm_id", BigInt, nullable=False),
        sa.Column("order_id", BigInt, nullable=False),
        sa.Column("client_id", BigInt, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("side", Word, nullable=False),
        sa.Column("quantity", ExactDecimal, nullable=False),
        sa.Column("price", ExactDecimal, nullable=False),
        sa.Column("exchange", sa.String, nullable=False),
        sa.Column("time", UTCDateTime, nullable=False),
        sa.Column("commission", ExactDecimal, nullable=True),
        sa.Column("commission_currency", sa.String, nullable=False),
        sa.Column("realized_pnl", ExactDecimal, nullable=True),
        sa.Column("booked_at", UTCDateTime, nullable=False),
    )
    op.create_index("ix_executions_intent_id", "executions", ["intent_id"])
    op.create_index(
        "ix_executions_source_account_strategy_con_id", "executions", ["source", "account", "strategy", "con_id"]
    )
    op.create_table(
        "intent_transitions",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("intent_id", BigInt, sa.ForeignKey("intents.id"), nullable=False),
        sa.Column("from_state", Word, nullable=False),
        sa.Column("to_state", Word, nullable=False),
        sa.Column("at", UTCDateTime, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("ix_intent_transitions_intent_id", "intent_transitions", ["intent_id"])
    op.create_table(
        "orders",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("intent_id", BigInt, sa.ForeignKey("intents.id"), nullable=True),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("order_ref", sa.String, nullable=False),
        sa.Column("perm_id", BigInt, nullable=True),
        sa.Column("client_id", BigInt, nullable=False),
        sa.Column("order_id", BigInt, nullable=False),
        sa.Column("con_id", BigInt, nullable=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("side", Word, nullable=False),
        sa.Column("quantity", ExactDecimal, nullable=False),
        sa.Column("order_type", sa.String, nullable=False),
        sa.Column("limit_price", ExactDecimal, nullable=True),
        sa.Column("stop_price", ExactDecimal, nullable=True),
        sa.Column("tif", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("filled", ExactDecimal, nullable=False),
        sa.Column("remaining", ExactDecimal, nullable=False),
        sa.Column("average_price", ExactDecimal, nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("first_seen_at", UTCDateTime, nullable=False),
        sa.Column("updated_at", UTCDateTime, nullable=False),
        sa.UniqueConstraint("source", "perm_id"),
    )
    op.create_index("ix_orders_intent_id", "orders", ["intent_id"])
    op.create_index("ix_orders_order_ref", "orders", ["order_ref"])
    op.create_table(
        "risk_decisions",
        sa.Column("id", BigInt, primary_key=True),
        sa.Column("intent_id", BigInt, sa.ForeignKey("intents.id"), nullable=False),
        sa.Column("rule", sa.String, nullable=False),
        sa.Column("outcome", Word, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("limit_value", sa.Text, nullable=False),
        sa.Column("observed", sa.Text, nullable=False),
        sa.Column("quantity", ExactDecimal, nullable=True),
        sa.Column("created_at", UTCDateTime, nullable=False),
    )
    op.create_index("ix_risk_decisions_intent_id", "risk_decisions", ["intent_id"])
