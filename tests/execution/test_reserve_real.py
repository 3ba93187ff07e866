"""Rates, prices and positions of a whole account as the simulated gateway tells them over its socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.execution.outcome import OrderOutcome
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.plans import TicketPlan
from airflow_ibkr_plugin.trading.risk_rules import rules
from airflow_ibkr_plugin.trading.sizing import Sizing

RULES = {rule.name: rule for rule in rules()}
ACCOUNT = "DU1234567"
CLOCK = datetime.fromisoformat("2026-03-02T15:00:00+00:00")  # a Monday, half an hour into the session


@pytest.fixture
def broker(request: pytest.FixtureRequest, database: Database) -> Iterator[BrokerSession]:
    """A session on an account in euro that has dollars too, and no yen."""
    cash = {"EUR": Decimal(1_000_000), "USD": Decimal(100_000)}
    with start_simulator(seed=7, clock=CLOCK, account=ACCOUNT, base_currency="EUR", cash=cash) as gateway:
        spec = GatewaySpec(
            conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
        )
        with leased_session(spec, database, owner="test") as session:
            yield session


def place(
    session: BrokerSession,
    database: Database,
    symbol: Any,
    sizing: dict[str, Any],
    side: Side = Side.BUY,
    **limits: Any,
) -> OrderOutcome:
    instrument = session.resolve(InstrumentSpec.parse(symbol))
    run_id = f"{side}-{symbol}-{sizing}-{limits}"
    request = OrderRequest(
        key=IntentKey(installation="t", dag_id="demo", run_id=run_id, task_id="order", con_id=instrument.con_id),
        strategy="demo",
        source=session.source,
        account=session.account,
        mode="paper",
        instrument=instrument,
        ticket=TicketPlan(side=side, sizing=Sizing.parse(sizing)),
        rules=tuple((RULES[name], parameters) for name, parameters in limits.items()),
        wait_seconds=30.0,
        allow_short=True,
    )
    return execute(session, database, request, owner="t")


def test_a_snapshot_tells_the_rates_of_the_account_and_when_they_came(broker: BrokerSession) -> None:
    account = broker.account_snapshot()
    assert account.rates.keys() == {"EUR", "USD"}
    assert account.rate("EUR", account.at) == 1
    rate = account.rate("USD", account.at)
    assert rate is not None
    assert Decimal("0.5") < rate < 1
    assert account.values_at is not None
    assert timedelta(0) <= account.at - account.values_at < timedelta(minutes=1)


def test_an_instrument_in_another_currency_is_sized_and_limited_in_the_base_currency(
    broker: BrokerSession, database: Database
) -> None:
    account = broker.account_snapshot()
    spy = broker.resolve(InstrumentSpec.parse("SPY"))
    price = broker.quote(spy).reference
    rate = account.rate("USD", account.at)
    assert price is not None
    assert rate is not None
    in_euro = price * rate
    outcome = place(broker, database, "SPY", {"notional": 10_000}, order_notional={"max": 5_000})
    assert outcome.requested_quantity == pytest.approx(Decimal(10_000) / in_euro, abs=Decimal("1.2"))
    assert outcome.filled == pytest.approx(Decimal(5_000) / in_euro, abs=Decimal("1.2"))
    with pytest.raises(ConfigError, match="rate from JPY to EUR"):
        place(broker, database, {"symbol": "7203", "exchange": "TSEJ", "currency": "JPY"}, {"notional": 10_000})


def test_exposure_counts_positions_in_every_currency_as_soon_as_they_are_there(
    broker: BrokerSession, database: Database
) -> None:
    ten_thousand, limit = {"notional": 10_000}, {"gross_exposure": {"max": 25_000}}
    assert place(broker, database, "SPY", ten_thousand, **limit).state is IntentState.FILLED
    assert place(broker, database, "QQQ", ten_thousand, Side.SELL, **limit).state is IntentState.FILLED
    third = place(broker, database, "EUR.USD", ten_thousand, **limit)
    assert 4_000 < third.quantity < 6_500
    held = broker.account_snapshot().positions
    assert all(position.market_price is not None for position in held)
    assert place(broker, database, "IWM", ten_thousand, **limit).state is IntentState.DENIED


def test_what_was_just_bought_has_a_market_price(broker: BrokerSession) -> None:
    for number, symbol in enumerate(("SPY", "QQQ", "IWM"), start=1):
        instrument = broker.resolve(InstrumentSpec.parse(symbol))
        order_id, ticket = broker.next_order_id(), OrderTicket(side=Side.BUY, quantity=Decimal(1))
        order = broker.place(instrument, ticket, order_id=order_id, order_ref=symbol, account=ACCOUNT)
        assert broker.wait_terminal(order, seconds=30).complete
        positions = broker.positions()
        assert len(positions) == number
        assert None not in {position.market_price for position in positions}


def test_a_what_if_orders_nothing_and_says_what_the_broker_would_do(broker: BrokerSession) -> None:
    spy = broker.resolve(InstrumentSpec.parse("SPY"))
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(100))
    small, large = broker.what_if(spy, ticket), broker.what_if(spy, replace(ticket, quantity=Decimal(1000)))
    assert small.initial_before == large.initial_before == 0
    assert small.initial_after is not None
    assert large.initial_after == pytest.approx(small.initial_after * 10, rel=Decimal("0.001"))
    assert not small.refused
    assert not broker.find_by_ref("").known
    assert broker.positions() == []
    refused = broker.what_if(
        spy,
        OrderTicket(
            side=Side.BUY,
            quantity=Decimal(1),
            tif=TimeInForce.GTC,
            limit_price=Decimal("1.001"),
            order_type=OrderType.LIMIT,
        ),
    )
    assert "minimum price variation" in refused.refused
    order_id = broker.next_order_id()
    placed = broker.place(spy, replace(ticket, quantity=Decimal(1)), order_id=order_id, order_ref="x", account=ACCOUNT)
    assert broker.wait_terminal(placed, seconds=30).complete


def test_buying_power_is_asked_of_the_broker_before_anything_is_sent(broker: BrokerSession, database: Database) -> None:
    too_much = place(broker, database, "SPY", {"quantity": 100_000}, buying_power={})
    assert too_much.state is IntentState.DENIED
    assert too_much.reason.startswith("buying_power: the account's margin")
    assert place(broker, database, "SPY", {"quantity": 100}, buying_power={}).state is IntentState.FILLED
    rest = place(broker, database, "SPY", {"quantity": 100}, buying_power={"min_excess": 1_080_000})
    assert rest.state is IntentState.DENIED
    closing = place(broker, database, "SPY", {"quantity": 100}, Side.SELL, buying_power={"min_excess": 1_080_000})
    assert closing.state is IntentState.FILLED


def test_the_day_s_profit_is_the_broker_s_and_stops_what_opens_and_not_what_closes(
    broker: BrokerSession, database: Database
) -> None:
    assert broker.daily_pnl() == 0
    ten = {"quantity": 10}
    assert place(broker, database, "SPY", ten, daily_loss={"max": 1_000}).state is IntentState.FILLED
    lost = broker.daily_pnl()
    assert lost < 0  # the spread and the commission
    limit = {"max": float(-lost) / 2}
    assert place(broker, database, "QQQ", ten, daily_loss=limit).state is IntentState.DENIED
    assert place(broker, database, "SPY", ten, Side.SELL, daily_loss=limit).state is IntentState.FILLED
    for name, parameters in (("cooldown", {"seconds": 60}), ("strategy_loss", {"max": 0.01})):
        outcome = place(broker, database, "QQQ", ten, **{name: parameters})
        assert outcome.reason.startswith(f"{name}: the strategy has")
