"""A reconcile with 10,000 orders in the day: what is ours, beside what the gateway takes to answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.databases import databases
from benchmarks.gateway import gateway
from benchmarks.raw_client import RawClient

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.instruments import Instrument
    from airflow_ibkr_plugin.trading.orders import Execution

ORDERS = 10_000
STRATEGIES = 5
ROUNDS = 3
ASKED = ("everything", "positions")


def main() -> None:
    """Print the table."""
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.broker.spec import GatewaySpec
    from airflow_ibkr_plugin.trading.instruments import InstrumentSpec

    with gateway("--message-rate", "0") as running, databases() as both:
        client = RawClient(running.port, 1, "aip-bench-ORDER_ID")
        client.fill(ORDERS)
        client.close()
        spec = GatewaySpec(
            conn_id="bench", host="127.0.0.1", port=running.port, client_ids=range(2, 3), account="", timeout=60
        )
        with BrokerSession.open(spec, client_id=2) as session:
            fills = session.executions()
            instrument = session.resolve(InstrumentSpec(symbol="SPY"))
            print(f"{ORDERS:,} orders, medians of {ROUNDS}; aim: ours 2,000 ms; CPU: of our thread, whatever else runs")
            print(f"{'':12} {'all ms':>8} {'gateway ms':>11} {'ours ms':>8} {'CPU ms':>7}")
            for name, database in both.items():
                enter(database, session.source, fills, instrument)
                taken = [once(database, session) for _ in range(ROUNDS + 1)][1:]
                whole, gate, cpu = (statistics.median(column) * 1000 for column in zip(*taken, strict=True))
                print(f"{name:12} {whole:8.0f} {gate:11.0f} {whole - gate:8.0f} {cpu:7.0f}")


def once(database: Database, session: BrokerSession) -> tuple[float, float, float]:
    """Seconds of one reconciliation, how many of them the broker was asked, and how many its thread was at work."""
    from airflow_ibkr_plugin.execution.reconcile import reconcile

    waited = 0.0

    def timed(ask: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            nonlocal waited
            began = time.perf_counter()
            try:
                return ask()
            finally:
                waited += time.perf_counter() - began

        return run

    with ExitStack() as stack:
        for name in ASKED:
            stack.enter_context(mock.patch.object(session, name, timed(getattr(session, name))))
        began, worked = time.perf_counter(), time.thread_time()
        found = reconcile(session, database, by="bench")
        whole, cpu = time.perf_counter() - began, time.thread_time() - worked
    if found.differences or found.booked:
        raise RuntimeError(f"the books should agree: {found}")
    return whole, waited, cpu


def enter(database: Database, source: str, fills: Sequence[Execution], instrument: Instrument) -> None:
    """Our book of the same orders: intents, executions, positions of some strategies."""
    from sqlalchemy import insert

    from airflow_ibkr_plugin.store.models import ExecutionRow, OrderIntent
    from airflow_ibkr_plugin.store.positions import Positions

    now = datetime.now(UTC)
    intents, executions = [], []
    for number, fill in enumerate(fills, 1):
        strategy = f"s{number % STRATEGIES}"
        intents.append(_intent(number, strategy, source, fill, instrument, now))
        owned = {"source": source, "intent_id": number, "strategy": strategy, "booked_at": now}
        executions.append(asdict(fill) | owned)
    with database.write() as session:
        session.execute(insert(OrderIntent), intents)
        session.execute(insert(ExecutionRow), executions)
        for row in session.query(ExecutionRow).order_by(ExecutionRow.intent_id).limit(STRATEGIES):
            Positions(session).apply(row, row.strategy, at=now)


def _intent(
    number: int, strategy: str, source: str, fill: Execution, instrument: Instrument, now: datetime
) -> dict[str, Any]:
    from airflow_ibkr_plugin.trading.orders import IntentState, OrderType, TimeInForce

    return {
        "id": number,
        "order_ref": fill.order_ref,
        "installation": "bench",
        "dag_id": strategy,
        "run_id": f"run-{number}",
        "task_id": "order",
        "strategy": strategy,
        "source": source,
        "account": fill.account,
        "mode": "paper",
        "symbol": "SPY",
        "con_id": fill.con_id,
        "instrument": instrument.to_dict(),
        "leg": "entry",
        "generation": 0,
        "side": fill.side,
        "quantity": fill.quantity,
        "requested_quantity": fill.quantity,
        "order_type": OrderType.MARKET,
        "tif": TimeInForce.DAY,
        "state": IntentState.FILLED,
        "reason": "filled",
        "reference_price": Decimal(1),
        "currency": "USD",
        "broker_day": now.date(),
        "client_id": 1,
        "order_id": fill.order_id,
        "perm_id": fill.perm_id,
        "sent_at": now,
        "created_at": now,
        "updated_at": now,
    }
