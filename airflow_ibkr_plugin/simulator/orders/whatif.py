"""What-if: what an order would cost and tie up, without placing it."""

from __future__ import annotations

from typing import Any

from airflow_ibkr_plugin.simulator.account.commissions import order_commission
from airflow_ibkr_plugin.simulator.account.figures import Figures, figures
from airflow_ibkr_plugin.simulator.account.money import cents
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.hours import EASTERN, next_open, tws_time
from airflow_ibkr_plugin.simulator.orders.book import Order
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, rejected
from airflow_ibkr_plugin.simulator.orders.matching import trades_extended


def preview(gateway: Gateway, order: Order) -> dict[str, Any]:
    """The order state fields of openOrder for an order that is not placed."""
    before, after = figures(gateway, account=order.account), figures_after(gateway, order)
    instrument = gateway.instrument(order.con_id)
    price = order.limit_price or gateway.last_price(instrument)
    fee, currency = order_commission(gateway, instrument, order.quantity, price)
    in_base = cents(fee * gateway.rate(currency))
    answer: dict[str, Any] = {}
    for name, was, becomes in (
        ("initMargin", before.initial_margin, after.initial_margin),
        ("maintMargin", before.maintenance_margin, after.maintenance_margin),
        ("equityWithLoan", before.equity, after.equity - in_base),
    ):
        answer |= {f"{name}Before": was, f"{name}Change": becomes - was, f"{name}After": becomes}
    return answer | {
        "commission": fee,
        "minCommission": fee,
        "maxCommission": fee,
        "commissionCurrency": currency,
        "warningText": closed_warning(gateway, order),
    }


def figures_after(gateway: Gateway, order: Order) -> Figures:
    """The account as if what remains of the order had filled at the last price."""
    signed = order.remaining if order.is_buy else -order.remaining
    return figures(gateway, {order.con_id: signed}, order.account)


def check_funds(gateway: Gateway, order: Order) -> None:
    """Check that the account can carry an order.

    :raises Refusal: it cannot, or the contract will not trade any more.
    """
    instrument = gateway.instrument(order.con_id)
    if next_open(instrument.hours, gateway.clock.time(), regular=True) is None:
        raise rejected("No further trading session is known for this contract.")
    after = figures_after(gateway, order)
    fee, currency = order_commission(gateway, instrument, order.quantity, gateway.last_price(instrument))
    if after.available - cents(fee * gateway.rate(currency)) >= 0:
        return
    # What lowers the margin is always taken: a position must be closable.
    if after.initial_margin > figures(gateway, account=order.account).initial_margin:
        raise _no_funds(after, gateway.base_currency)


def closed_warning(gateway: Gateway, order: Order) -> str:
    """IBKR's warning about an order that waits for its market to open; empty for one that does not."""
    instrument, now = gateway.instrument(order.con_id), gateway.clock.time()
    opens = next_open(instrument.hours, now, regular=not trades_extended(order))
    if order.tif == "IOC" or opens is None or opens <= now:
        return ""
    return f"Warning: Your order will not be placed at the exchange until {tws_time(opens, EASTERN, 'US/Eastern')}"


def _no_funds(after: Figures, base: str) -> Refusal:
    return rejected(
        "YOUR ORDER IS NOT ACCEPTED. IN ORDER TO OBTAIN THE DESIRED POSITION YOUR"
        f" EQUITY WITH LOAN VALUE [{after.equity} {base}] MUST EXCEED THE INITIAL MARGIN"
        f" [{after.initial_margin} {base}]"
    )
