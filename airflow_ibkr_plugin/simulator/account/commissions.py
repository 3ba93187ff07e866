"""What an order costs: IBKR Pro, fixed pricing, smart routed; the lowest tier of spot currencies.

Source: IBKR, "Commissions": Stocks, North America (USD 0.005 a share, at least 1.00, at most 1 % of the value; CAD
0.01, 1.00, 0.5 %), Europe (0.05 %, at least EUR 3.00), Spot Currencies (0.20 basis points, at least USD 2.00, converted
and charged in the account's base currency). The least of GBP 3.00 and CHF 5.00 and the prices of Japan (0.08 %, at
least JPY 80) were not looked up there: they are of that order, and unverified.
Exchange, regulatory and transaction fees, and taxes are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.simulator.account.money import ZERO, cents
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.gateway import Gateway


@dataclass(frozen=True)
class Schedule:
    """A market's prices, in its currency: per share or as a part of the value, and the bounds of an order."""

    per_share: Decimal = ZERO
    of_value: Decimal = ZERO
    minimum: Decimal = ZERO
    at_most_of_value: Decimal | None = None

    def total(self, shares: Decimal, value: Decimal) -> Decimal:
        """Commission of an order of so many shares of that value. The maximum goes before the minimum."""
        amount = max(shares * self.per_share + value * self.of_value, self.minimum)
        return cents(amount if self.at_most_of_value is None else min(amount, value * self.at_most_of_value))


#: Stocks by their currency: one market each.
STOCKS = {
    "USD": Schedule(per_share=Decimal("0.005"), minimum=Decimal("1.00"), at_most_of_value=Decimal("0.01")),
    "CAD": Schedule(per_share=Decimal("0.01"), minimum=Decimal("1.00"), at_most_of_value=Decimal("0.005")),
    "EUR": Schedule(of_value=Decimal("0.0005"), minimum=Decimal("3.00")),
    "GBP": Schedule(of_value=Decimal("0.0005"), minimum=Decimal("3.00")),
    "CHF": Schedule(of_value=Decimal("0.0005"), minimum=Decimal("5.00")),
    "JPY": Schedule(of_value=Decimal("0.0008"), minimum=Decimal("80.00")),
}
#: Currency pairs: of the value in USD.
FOREX = Schedule(of_value=Decimal("0.00002"), minimum=Decimal("2.00"))


def order_commission(
    gateway: Gateway, instrument: Instrument, shares: Decimal, price: Decimal, charged: Decimal = ZERO
) -> tuple[Decimal, str]:
    """Commission and its currency for what an order has filled on a day, less what it was charged for that before.

    So an order pays its minimum once a day, and the same in all however it is filled on it.

    :param shares: filled so far on the day. :param price: their average.
    """
    value = shares * price
    if not instrument.is_forex:
        return max(STOCKS[instrument.currency].total(shares, value) - charged, ZERO), instrument.currency
    base = gateway.base_currency
    in_dollars = FOREX.total(shares, value * gateway.rate(instrument.currency) / gateway.rate("USD"))
    return max(cents(in_dollars * gateway.rate("USD")) - charged, ZERO), base
