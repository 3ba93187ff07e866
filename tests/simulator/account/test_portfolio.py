"""The books: whatever is traded, cash, positions and profit add up to the cent."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.account.figures import account_values, figures, holdings
from airflow_ibkr_plugin.simulator.account.portfolio import Portfolio, cents, commission
from airflow_ibkr_plugin.simulator.gateway import Gateway, Options
from airflow_ibkr_plugin.simulator.market.catalogue import Catalogue, synthetic
from airflow_ibkr_plugin.simulator.orders.book import Execution

CATALOGUE = Catalogue(synthetic(2026))
STOCKS = (265598, 756733, 8894)
START = Decimal(1_000_000)

trades = st.lists(
    st.tuples(
        st.sampled_from(STOCKS),
        st.sampled_from(["BOT", "SLD"]),
        st.integers(1, 3000),
        st.decimals("0.01", "900", places=2),
    ),
    max_size=40,
)


def fill(number: int, con_id: int, side: str, shares: int, price: Decimal) -> Execution:
    instrument = CATALOGUE.get(con_id)
    assert instrument is not None
    fee, currency = commission(instrument, Decimal(shares), price, Decimal(1))
    return Execution(
        exec_id=str(number), perm_id=number, client_id=1, order_id=number, con_id=con_id, side=side,
        shares=Decimal(shares), price=price, time=0, order_ref="", cumulative=Decimal(shares), avg_price=price,
        commission=fee, commission_currency=currency,
    )  # fmt: skip


@settings(deadline=None)
@given(trades, st.lists(st.decimals("0.01", "900", places=2), min_size=3, max_size=3))
def test_cash_positions_and_profit_add_up(made: list[tuple[int, str, int, Decimal]], last: list[Decimal]) -> None:
    portfolio = Portfolio(START)
    reported, fees = Decimal(0), Decimal(0)
    for number, trade in enumerate(made):
        execution = fill(number, *trade)
        instrument = CATALOGUE.get(execution.con_id)
        assert instrument is not None
        reported += portfolio.apply(execution, instrument) or 0
        fees += execution.commission
    prices = dict(zip(STOCKS, last, strict=True))
    value = sum((item.quantity * prices[con] for con, item in portfolio.positions.items()), Decimal(0))
    realized = sum((item.realized for item in portfolio.positions.values()), Decimal(0))
    unrealized = sum((i.quantity * prices[con] - i.cost for con, i in portfolio.positions.items()), Decimal(0))
    assert portfolio.cash["USD"] + value == START + realized + unrealized
    assert realized == reported
    bought = sum((Decimal(s) * p if side == "BOT" else -s * p for _, side, s, p in made), Decimal(0))
    assert portfolio.cash["USD"] == START - cents(bought) - fees
    for con, item in portfolio.positions.items():
        assert item.quantity == sum(s if side == "BOT" else -s for c, side, s, _ in made if c == con)
        assert (item.cost == 0) or item.quantity != 0


def test_average_cost_has_the_commission_and_profit_is_after_it() -> None:
    portfolio = Portfolio(START)
    apple = CATALOGUE.get(265598)
    assert apple is not None
    assert portfolio.apply(fill(1, 265598, "BOT", 100, Decimal("200.00")), apple) is None
    assert portfolio.positions[265598].average_cost == Decimal("200.01")
    # Sold through zero: 100 close at a profit, 50 open short; each bears its part of the commission of 1.00.
    profit = portfolio.apply(fill(2, 265598, "SLD", 150, Decimal("210.00")), apple)
    assert profit == Decimal("21000.00") - Decimal("20001.00") - Decimal("0.67")
    assert portfolio.positions[265598].quantity == -50
    assert portfolio.positions[265598].cost == -Decimal("10500.00") + Decimal("0.33")


def test_commissions_are_ibkrs() -> None:
    apple, euro, toronto = (CATALOGUE.get(con) for con in (265598, 12087792, 195014189))
    assert apple is not None
    assert euro is not None
    assert toronto is not None
    assert commission(apple, Decimal(100), Decimal(5), Decimal(1)) == (Decimal("1.00"), "USD")
    assert commission(apple, Decimal(1001), Decimal(5), Decimal(1)) == (Decimal("5.00"), "USD")
    assert commission(euro, Decimal(20000), Decimal("1.1"), Decimal(1)) == (Decimal("2.00"), "USD")
    assert commission(euro, Decimal(1_000_000), Decimal("1.1"), Decimal(1)) == (Decimal("22.00"), "USD")
    assert commission(toronto, Decimal(1000), Decimal(5), Decimal("0.7")) == (Decimal("8.00"), "CAD")


pairs = st.lists(
    st.tuples(
        st.sampled_from([12087792, 12087797, 15016059, 195014189, 265598]),
        st.sampled_from(["BOT", "SLD"]),
        st.integers(100, 50_000),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(pairs)
def test_the_account_in_several_currencies_adds_up(made: list[tuple[int, str, int]]) -> None:
    gateway = Gateway(Options(clock=datetime(2026, 11, 20, 16, 0, tzinfo=UTC)))
    gateway.clock.freeze()
    for number, (con_id, side, shares) in enumerate(made):
        instrument = gateway.instrument(con_id)
        price = cents(gateway.last_price(instrument) * Decimal("1.01"))
        fee, currency = commission(instrument, Decimal(shares), price, gateway.rate(instrument.currency))
        execution = fill(number, 265598, side, shares, price)
        execution = Execution(
            **{**vars(execution), "con_id": con_id, "commission": fee, "commission_currency": currency}
        )
        gateway.portfolio.apply(execution, instrument)
    now = figures(gateway)
    # Each side is rounded to the cent once per figure.
    assert abs(now.equity - (START + now.realized + now.unrealized)) <= Decimal("0.02")
    values = {(key, currency): value for key, value, currency in account_values(gateway)}
    assert Decimal(values["NetLiquidation", "USD"]) == now.equity
    by_currency = sum(
        Decimal(values["NetLiquidationByCurrency", currency]) * gateway.rate(currency)
        for currency in gateway.portfolio.cash
    )
    assert abs(by_currency - now.equity) <= Decimal("0.10")
    assert {item.instrument.con_id for item in holdings(gateway)} == {con for con, _, _ in made}
