"""Contexts to test risk rules with: a good one to change, and a hypothesis strategy of any kind."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Position, Quote
from airflow_ibkr_plugin.trading.risk import RiskContext
from airflow_ibkr_plugin.trading.risk_facts import Fill, Margin, OpenOrder, OrderHistory, PastOrder, Peak
from airflow_ibkr_plugin.trading.signals import Action, Signal

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
SPY = Instrument(symbol="SPY", con_id=756733, min_tick=Decimal("0.01"))
QQQ = Instrument(symbol="QQQ", con_id=320227571, min_tick=Decimal("0.01"))
_TYPES = {
    (False, False): OrderType.MARKET,
    (True, False): OrderType.LIMIT,
    (False, True): OrderType.STOP,
    (True, True): OrderType.STOP_LIMIT,
}


def risk_context(
    side: Side = Side.BUY,
    quantity: str = "10",
    *,
    limit: str | None = None,
    stop: str | None = None,
    **changes: Any,
) -> RiskContext:
    """Ten SPY at 100 USD in a USD account worth 100,000: everything is known, nothing held, nothing else ordered.

    The account knows the rate of EUR, 1.25 USD.

    :param changes: other fields of the context.
    """
    ticket = OrderTicket(
        side=side,
        quantity=Decimal(quantity),
        order_type=_TYPES[bool(limit), bool(stop)],
        limit_price=Decimal(limit) if limit else None,
        stop_price=Decimal(stop) if stop else None,
    )
    account = AccountSnapshot(
        account="DU1234567",
        at=NOW,
        currency="USD",
        net_liquidation=Decimal(100_000),
        cash=Decimal(100_000),
        buying_power=Decimal(400_000),
        rates={"USD": Decimal(1), "EUR": Decimal("1.25")},
        values_at=NOW,
    )
    signal = Signal(symbol="SPY", action=Action.BUY, confidence=0.9, as_of=NOW - timedelta(hours=1), analyst="test")
    known = RiskContext(
        now=NOW,
        strategy="s",
        instrument=SPY,
        ticket=ticket,
        quote=Quote(con_id=SPY.con_id, at=NOW, bid=Decimal(100), ask=Decimal(100)),
        account=account,
        position=Decimal(0),
        reserved=Decimal(0),
        orders_today=0,
        market_open=True,
        signal=signal,
        requested=Decimal(quantity),
        open_orders=(),
        history=OrderHistory(orders=(), seconds=3600.0),
        margin=Margin(initial_before=Decimal(0), initial_after=Decimal(250), equity_after=Decimal(99_999)),
        daily_pnl=Decimal(0),
        fills=(),
        account_orders_today=0,
        results=(),
        peaks=(),
    )
    return replace(known, **changes)


_amount = st.decimals("-1e9", "1e9", places=4)
_left = st.one_of(st.integers(0, 50).map(Decimal), st.decimals("0", "1e9", places=4))
_given_price = st.one_of(st.none(), st.decimals("0.01", "1e6", places=2))
_any_price = st.one_of(
    st.none(),
    st.decimals("0.0001", "1e6", places=4),
    st.sampled_from([Decimal(t) for t in ("NaN", "sNaN", "Infinity", "-Infinity", "0", "-5", "1E+400", "1E-400")]),
)
_side = st.sampled_from(Side)
_strategy = st.sampled_from(["s", "other"])
_open_order = st.builds(
    OpenOrder,
    strategy=_strategy,
    instrument=st.sampled_from([SPY, QQQ]),
    side=_side,
    remaining=_left,
    price=_given_price,
    booked=st.booleans(),
)
_open_orders = st.builds(
    lambda orders, times: tuple(orders) * times, st.lists(_open_order, max_size=4), st.sampled_from([1, 1, 20])
)
_history = st.builds(
    OrderHistory,
    orders=st.lists(
        st.builds(
            PastOrder,
            strategy=_strategy,
            con_id=st.sampled_from([SPY.con_id, QQQ.con_id]),
            side=_side,
            quantity=st.sampled_from([Decimal(10), Decimal(20)]),
            limit_price=_given_price,
            stop_price=st.none(),
            age=st.floats(0, 120),
        ),
        max_size=6,
    ).map(tuple),
    seconds=st.sampled_from([10.0, 60.0, 3600.0]),
)
_signals = st.builds(
    Signal,
    symbol=st.just("SPY"),
    action=st.sampled_from([Action.BUY, Action.SELL]),
    confidence=st.floats(-1, 2) | st.just(float("nan")),
    as_of=st.timedeltas(timedelta(days=-30), timedelta(days=3)).map(lambda passed: NOW + passed),
    analyst=st.just("test"),
)


_margin = st.none() | st.integers(-1000, 100_000).map(Decimal) | st.just(Decimal("NaN"))
_margins = st.builds(
    Margin,
    initial_before=_margin,
    initial_after=_margin,
    equity_after=_margin,
    refused=st.sampled_from(["", "", "no"]),
)
_fills = st.lists(
    st.builds(
        Fill,
        age=st.floats(0, 90_000),
        today=st.booleans(),
        profit=st.none() | st.integers(-500, 500).map(Decimal),
        currency=st.sampled_from(["USD", "EUR", "JPY"]),
    ),
    max_size=3,
).map(tuple)
_peaks = st.lists(
    st.builds(
        Peak,
        day=st.dates(NOW.date() - timedelta(days=60), NOW.date()),
        value=st.integers(50_000, 150_000).map(Decimal),
        currency=st.sampled_from(["USD", "USD", "EUR"]),
    ),
    max_size=3,
).map(tuple)
_positions = st.lists(
    st.builds(
        Position,
        account=st.just("DU1234567"),
        con_id=st.sampled_from([QQQ.con_id, 1, 2]),
        symbol=st.just("XYZ"),
        quantity=st.integers(-100, 100).map(Decimal),
        average_cost=st.just(Decimal(1)),
        currency=st.sampled_from(["USD", "EUR", "JPY"]),
        market_price=_any_price | st.just(Decimal(10)),
    ),
    max_size=3,
    unique_by=lambda position: position.con_id,
).map(tuple)


@st.composite
def contexts(draw: st.DrawFn) -> RiskContext:
    """Contexts good and bad: prices that are none, orders of any size, other orders, signals, things not known."""
    limit, stop = draw(_given_price), draw(_given_price)
    known = risk_context(
        draw(_side),
        str(draw(st.sampled_from([Decimal(10), Decimal(50), Decimal(101)]) | st.decimals("0.0001", "1e9", places=4))),
        limit=str(limit) if limit else None,
        stop=str(stop) if stop else None,
        quote=Quote(
            con_id=SPY.con_id,
            at=NOW - timedelta(seconds=draw(st.integers(-100, 100))),
            bid=draw(_any_price | st.just(Decimal(100))),
            ask=draw(_any_price | st.just(Decimal(100))),
            last=draw(_any_price),
            delayed=draw(st.booleans()),
        ),
        position=draw(_amount | st.integers(-200, 200).map(Decimal)),
        reserved=draw(_amount | st.integers(-200, 200).map(Decimal)),
        held=draw(_amount | st.integers(-200, 200).map(Decimal)),
        orders_today=draw(st.integers(0, 10)),
        account_orders_today=draw(st.none() | st.integers(0, 20)),
        market_open=draw(st.sampled_from([True, False, None])),
        requested=draw(st.sampled_from([None, Decimal(10), Decimal(20)])),
        open_orders=draw(st.none() | _open_orders),
        history=draw(st.none() | _history),
        margin=draw(st.none() | _margins),
        daily_pnl=draw(_margin),
        fills=draw(st.none() | _fills),
        results=draw(st.none() | _fills),
        peaks=draw(st.none() | _peaks),
        signal=draw(st.none() | _signals),
    )
    account = replace(
        known.account,
        positions=draw(_positions),
        values_at=draw(st.sampled_from([None, NOW, NOW - timedelta(hours=1)])),
        net_liquidation=draw(st.sampled_from([Decimal(100_000), Decimal(-1), Decimal("NaN"), Decimal("Infinity")])),
    )
    increment = draw(st.sampled_from([Decimal(1), Decimal("0.01"), Decimal(25)]))
    instrument = draw(st.sampled_from([SPY, QQQ, replace(SPY, currency="EUR"), replace(SPY, currency="JPY")]))
    return replace(known, account=account, instrument=replace(instrument, size_increment=increment))
