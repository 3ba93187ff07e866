"""What a run puts on record about its trading: where it traded, each order, and the sums at its end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.execution.outcome import read_outcome
from airflow_ibkr_plugin.store.account_snapshots import AccountSnapshots
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.store.signals import Signals
from airflow_ibkr_plugin.tracking.records import log_metrics, set_tags

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database


def record_source(database: Database, dag_id: str, run_id: str, broker: BrokerSession) -> None:
    """Tell the run's record, once, which gateway and account it trades, and whether the clock is simulated.

    The account is masked where it leaves the trading database.
    """
    with database.read() as session:
        known = Runs(session).get(dag_id, run_id)
        if known is None or known.source:
            return
    with database.write() as session:
        run = Runs(session).get(dag_id, run_id)
        if run is None or run.source:
            return
        run.source, run.account, run.simulated_clock = broker.source, broker.account, broker.simulated_clock
        tags = {
            "ibkr.source": broker.source,
            "ibkr.account": masked(broker.account),
            "ibkr.simulated_clock": str(broker.simulated_clock).lower(),
        }
        set_tags(session, (dag_id, run_id), tags, datetime.now(UTC))


def masked(account: str) -> str:
    """`DU*****67`: enough to tell accounts apart."""
    return account[:2] + "*" * max(len(account) - 4, 0) + account[-2:]


def record_order(database: Database, dag_id: str, run_id: str, order_ref: str) -> None:
    """Record how an order stands now: figures, state, what each risk rule said. Nothing where there is no intent."""
    with database.write() as session:
        intent = Intents(session).by_order_ref(order_ref)
        if intent is None:
            return
        outcome = read_outcome(session, intent.id)
        name, key, at = f"order/{outcome.symbol}", (dag_id, run_id), datetime.now(UTC)
        if intent.parent_id is not None:
            name += f"/{intent.leg}"
        metrics = {
            f"{name}/requested_quantity": outcome.requested_quantity,
            f"{name}/quantity": outcome.quantity,
            f"{name}/filled": outcome.filled,
            f"{name}/commission": outcome.commission,
        }
        if outcome.average_price is not None:
            metrics[f"{name}/average_price"] = outcome.average_price
            if intent.reference_price:
                paid_more = (outcome.average_price - intent.reference_price) * outcome.side.sign
                metrics[f"{name}/slippage_bps"] = paid_more / intent.reference_price * 10_000
        log_metrics(session, key, floats(metrics), at)
        tags = {name: f"{outcome.side} {outcome.quantity:f} {outcome.state}", f"{name}/ref": order_ref}
        for decision in outcome.decisions:
            said = f"{decision.outcome} {decision.observed} (limit {decision.limit}) {decision.reason}".rstrip()
            tags[f"risk/{outcome.symbol}/{decision.rule}"] = said
        set_tags(session, key, tags, at)


def run_summary(session: Session, dag_id: str, run_id: str) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of a run as it ends: signals, risk decisions, orders, fills, portfolio and how it changed."""
    signals = Signals(session).for_run(dag_id, run_id)
    intents = Intents(session).for_run(dag_id, run_id)
    fills = Executions(session).for_run(dag_id, run_id)
    decisions = RiskDecisions(session).for_run(dag_id, run_id)
    metrics: dict[str, float | Decimal] = {
        "run/signals": len(signals),
        "run/orders": sum(intent.sent_at is not None for intent in intents),
        "run/orders_filled": sum(intent.state == "filled" for intent in intents),
        "run/risk_denials": sum(decision.outcome == "deny" for decision in decisions),
        "run/risk_clamps": sum(decision.outcome == "clamp" for decision in decisions),
        "run/fills": len(fills),
        "run/traded_notional": sum((fill.quantity * fill.price for fill in fills), Decimal(0)),
        "run/commission": sum((fill.commission or Decimal(0) for fill in fills), Decimal(0)),
        "run/realized_pnl": sum((fill.realized_pnl or Decimal(0) for fill in fills), Decimal(0)),
    }
    tags = {}
    snapshots = AccountSnapshots(session).for_run(dag_id, run_id)
    if snapshots:
        last = snapshots[-1]
        metrics["portfolio/net_liquidation"] = last.net_liquidation
        metrics["portfolio/cash"] = last.cash
        metrics["portfolio/positions"] = len(last.positions)
        for position in last.positions:
            metrics[f"portfolio/position/{position['symbol']}"] = Decimal(str(position["quantity"]))
        if len(snapshots) > 1:
            metrics["portfolio/net_liquidation_change"] = last.net_liquidation - snapshots[0].net_liquidation
        tags["portfolio.currency"] = last.currency
    return floats(metrics), tags


def floats(values: Mapping[str, float | Decimal]) -> dict[str, float]:
    """MLflow's metrics are floats."""
    return {name: float(value) for name, value in values.items()}
