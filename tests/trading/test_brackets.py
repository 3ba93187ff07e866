"""A stop that is sent anew: at prices of today's shares, and where it had trailed to."""

from decimal import Decimal

import pytest

from airflow_ibkr_plugin.trading.brackets import split_stop, trailed_stop
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket, OrderType, Side, TimeInForce

KO = Instrument(symbol="KO", con_id=8894, min_tick=Decimal("0.01"))


def stop(side: Side, price: str, trail: str | None = None) -> OrderTicket:
    return OrderTicket(
        side=side,
        quantity=Decimal(10),
        order_type=OrderType.STOP if trail is None else OrderType.TRAIL,
        stop_price=Decimal(price),
        trail_amount=None if trail is None else Decimal(trail),
        tif=TimeInForce.GTC,
    )


@pytest.mark.parametrize(("side", "price"), [(Side.SELL, "25.01"), (Side.BUY, "25.00")])
def test_a_split_rounds_a_stop_towards_the_entry(side: Side, price: str) -> None:
    new = split_stop(stop(side, "100.01", trail="2.03"), KO, Decimal(4))
    assert (new.stop_price, new.trail_amount, new.quantity) == (Decimal(price), Decimal("0.50"), 10)


@pytest.mark.parametrize(
    ("side", "reached", "price"),
    [
        (Side.SELL, ["95", "97.255", "96"], "97.26"),
        (Side.SELL, ["85"], "90.00"),  # never behind where it was decided
        (Side.SELL, [], "90.00"),
        (Side.BUY, ["85", "87.005"], "85.00"),
        (Side.BUY, ["97"], "90.00"),
    ],
)
def test_a_trailing_stop_never_goes_back(side: Side, reached: list[str], price: str) -> None:
    told = [Decimal(one) for one in reached]
    assert trailed_stop(stop(side, "90.00", trail="2"), KO, told).stop_price == Decimal(price)
    assert trailed_stop(stop(side, "90.00"), KO, told) == stop(side, "90.00")  # one that does not trail stays
