"""Risk check and reservation with 20 rules and a million stored orders, on SQLite and PostgreSQL.

Timed is `reserve`: the rules that are asked for, the transaction with the account's lock, all that the rules look at,
the rules, their stored decisions, the reservation, the commit. The broker's answers are there already. Aim: p99 below
10 ms on PostgreSQL.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.execution.intent import Job, ticket_fields
from airflow_ibkr_plugin.execution.lease import hold
from airflow_ibkr_plugin.execution.market import Market
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.execution.reserve import reserve
from airflow_ibkr_plugin.registry import get_registry
from airflow_ibkr_plugin.store.bookings import Bookings
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Position, Quote
from airflow_ibkr_plugin.trading.reconcile import Result
from airflow_ibkr_plugin.trading.risk_facts import Margin
from airflow_ibkr_plugin.trading.signals import Action, Signal
from benchmarks.databases import SYMBOLS, databases, fill_with_orders

ROUNDS, WARM_UP, OPEN = 500, 20, 15
SOURCE, ACCOUNT, STRATEGY = "simulator:bench", "DU1234567", "s0"
SPY = Instrument(symbol="SPY", con_id=756733, min_tick=Decimal("0.01"))
#: By the workflow; with what is on for every order, 14.
WORKFLOW: dict[str, dict[str, Any]] = {
    "order_quantity": {"max": 1000},
    "order_notional": {"max": 100_000},
    "position_size": {"max_quantity": 5000},
    "concentration": {"max_share": 0.5},
    "net_exposure": {"max_share": 1},
    "price_collar": {"max_deviation": 0.05},
    "orders_per_day": {"max": 100_000},
    "order_rate": {"seconds": 60, "max": 100},
    "duplicate_order": {"seconds": 60},
    "strategy_loss": {"max": 5000},
    "cooldown": {"seconds": 600},
    "minimum_confidence": {"min": 0.6},
}
#: By the installation, for the account.
ACCOUNT_LIMITS: dict[str, dict[str, Any]] = {
    "gross_exposure": {"max": 5_000_000},
    "orders_per_day": {"max_account": 100_000},
    "open_orders": {"max_account": 100},
    "buying_power": {"min_excess": 1000},
    "daily_loss": {"max": 50_000},
    "drawdown": {"max_share": 0.2},
}


def main() -> None:
    """Print the table."""
    now = datetime.now(UTC)
    print(f"{'database':12} {'orders':>10} {'rules':>6} {'p50 ms':>8} {'p99 ms':>8}   aim p99 < 10 on PostgreSQL")
    with databases() as opened:
        for name, database in opened.items():
            prepare(database, now)
            for doublings in (None, 8):
                count = 0
                if doublings is not None:
                    count = fill_with_orders(database, SOURCE, ACCOUNT, now, doublings=doublings)
                rules, seconds = measure(database, now, str(count))
                typical, worst = statistics.median(seconds) * 1000, statistics.quantiles(seconds, n=100)[98] * 1000
                print(f"{name:12} {count:10,} {rules:6} {typical:8.1f} {worst:8.1f}", flush=True)


def prepare(database: Database, now: datetime) -> None:
    """Set the account's limits, let it be reconciled, and leave 15 orders of other strategies open."""
    with database.write() as session:
        for rule, parameters in ACCOUNT_LIMITS.items():
            Limits(session).change(ACCOUNT, rule, parameters, by="bench", reason="bench", at=now)
        Reconciliations(session, SOURCE, ACCOUNT).add(Result.AGREE, at=now, made_by="bench")
    for number in range(OPEN):
        _reserved(database, _request(f"open-{number}", strategy=f"s{number + 1}"), now)


def measure(database: Database, now: datetime, label: str) -> tuple[int, list[float]]:
    """Reserve one order after another, each taken back before the next; returns the number of rules and seconds."""
    seconds = []
    for number in range(ROUNDS + WARM_UP):
        taken, rules = _reserved(database, _request(f"{label}-{number}"), now, take_back=True)
        if number >= WARM_UP:
            seconds.append(taken)
    return rules, seconds


def _reserved(
    database: Database, request: OrderRequest, now: datetime, *, take_back: bool = False
) -> tuple[float, int]:
    with database.write() as session:
        row, _ = Intents(session).get_or_create(request.key, **_fields(request, now))
    nobody: Any = None  # the broker is not asked
    with hold(database, row.id, "bench", seconds=3600) as lease:
        job = Job(session=nobody, database=database, request=request, lease=lease, intent_id=row.id)
        market = _market(database)
        begun = time.perf_counter()
        row = reserve(job, market)
        taken = time.perf_counter() - begun
        assert row.state is IntentState.RESERVED, row.reason
        if take_back:
            job.move(IntentState.DENIED, "taken back")
    if not take_back:
        with database.write() as session:
            Intents(session).acquire_lease(row.id, "bench", now=now, seconds=3600)
    with database.read() as session:
        return taken, len(RiskDecisions(session).for_intent(row.id))


def _request(run_id: str, strategy: str = STRATEGY) -> OrderRequest:
    known = get_registry().risk_rules
    signal = Signal(symbol="SPY", action=Action.BUY, confidence=0.9, as_of=datetime.now(UTC), analyst="bench")
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal(100))
    return OrderRequest(
        key=IntentKey(installation="b", dag_id=strategy, run_id=run_id, task_id="order", con_id=SPY.con_id),
        strategy=strategy,
        source=SOURCE,
        account=ACCOUNT,
        mode="paper",
        instrument=SPY,
        ticket=ticket,
        rules=tuple((known[name], parameters) for name, parameters in WORKFLOW.items()),
        signal=signal,
    )


def _fields(request: OrderRequest, now: datetime) -> dict[str, Any]:
    assert isinstance(request.ticket, OrderTicket)
    return {
        "strategy": request.strategy,
        "source": request.source,
        "account": request.account,
        "mode": request.mode,
        "symbol": request.instrument.name,
        "instrument": request.instrument.to_dict(),
        "state": IntentState.DECIDED,
        "currency": request.instrument.currency,
        "created_at": now,
        **ticket_fields(request.ticket),
    }


def _market(database: Database) -> Market:
    """What the broker would say of an account that holds 200 instruments."""
    at = datetime.now(UTC)
    held = tuple(
        Position(
            account=ACCOUNT,
            con_id=1000 + number,
            symbol=f"S{number}",
            quantity=Decimal(100),
            average_cost=Decimal(100),
            market_price=Decimal(100),
        )
        for number in range(SYMBOLS)
    )
    account = AccountSnapshot(
        account=ACCOUNT,
        at=at,
        currency="USD",
        net_liquidation=Decimal(10_000_000),
        cash=Decimal(8_000_000),
        buying_power=Decimal(30_000_000),
        positions=held,
        rates={"USD": Decimal(1)},
        values_at=at,
    )
    with database.read() as session:
        booked = Bookings(session, SOURCE, ACCOUNT).last()
    return Market(
        now=at,
        quote=Quote(con_id=SPY.con_id, at=at, bid=Decimal(100), ask=Decimal(100)),
        account=account,
        position=Decimal(0),
        market_open=True,
        booked=booked,
        gathered=time.monotonic(),
        margin=Margin(initial_before=Decimal(0), initial_after=Decimal(500), equity_after=Decimal(10_000_000)),
        daily_pnl=Decimal(0),
    )
