"""What the strategies page shows: Airflow's view of each DAG beside the trading database's view of the strategy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow.models.dag import DagModel, DagTag
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.settings import Settings
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.store.signals import Signals
from airflow_ibkr_plugin.tracking.links import experiment_url, run_url
from airflow_ibkr_plugin.workflows.model import TAG


@dataclass(frozen=True, kw_only=True)
class StrategyRow:
    """One strategy on the page. Times are aware UTC; positions are the strategy's own, not the account's."""

    dag_id: str
    description: str
    state: str
    mode: str
    simulated: bool
    next_run: datetime | None
    last_run_id: str
    last_run_state: str
    last_run_at: datetime | None
    signal: str
    signal_by: str
    chart_id: int | None
    positions: tuple[str, ...]
    mlflow_run_url: str
    mlflow_url: str


def list_strategies(database: Database, options: Settings, dag_ids: Collection[str]) -> list[StrategyRow]:
    """One row for each strategy among the given DAGs, by name.

    :raises StoreError: the trading database cannot be read.
    :raises SchemaMismatch: it is of another version.
    """
    with create_session(scoped=False) as session:
        newest = select(DagRun.dag_id, func.max(DagRun.id).label("id")).group_by(DagRun.dag_id).subquery()
        found = session.execute(
            select(DagModel, DagRun)
            .join(DagTag, (DagTag.dag_id == DagModel.dag_id) & (DagTag.name == TAG))
            .outerjoin(newest, newest.c.dag_id == DagModel.dag_id)
            .outerjoin(DagRun, DagRun.id == newest.c.id)
            .where(DagModel.is_stale.is_(False), DagModel.dag_id.in_(dag_ids))
            .order_by(DagModel.dag_id)
        ).all()
        with database.read() as trading:
            return [_row(trading, options, dag, run) for dag, run in found]


def _row(trading: Session, options: Settings, dag: DagModel, run: DagRun | None) -> StrategyRow:
    stored = Runs(trading).latest(dag.dag_id)
    signal = Signals(trading).latest(dag.dag_id)
    experiment = stored.mlflow_experiment_id if stored else None
    positions = Positions(trading).list(strategy=stored.strategy) if stored else []
    return StrategyRow(
        dag_id=dag.dag_id,
        description=dag.description or "",
        state="import error" if dag.has_import_errors else ("paused" if dag.is_paused else "active"),
        mode=stored.mode if stored else "",
        simulated=bool(stored and stored.source.startswith("simulator:")),
        next_run=dag.next_dagrun_create_after,
        last_run_id=run.run_id if run else "",
        last_run_state=str(run.state) if run else "",
        last_run_at=run.run_after if run else None,
        signal=f"{signal.symbol} {signal.action} {signal.confidence:.0%}" if signal else "",
        signal_by=(signal.model if signal.is_llm else f"{signal.model} · rules, not an LLM") if signal else "",
        chart_id=signal.chart_id if signal else None,
        positions=tuple(f"{p.symbol} {_plain(p.quantity)} @ {p.average_cost:.4f}" for p in positions if p.quantity),
        mlflow_run_url=(
            run_url(options.mlflow_ui_url, experiment, stored.mlflow_run_id)
            if stored and experiment and stored.mlflow_run_id
            else ""
        ),
        mlflow_url=experiment_url(options.mlflow_ui_url, experiment) if experiment else "",
    )


def _plain(quantity: Decimal) -> str:
    """`100`, not `1E+2`, and no zeros behind the point."""
    return f"{quantity.normalize():f}"
