"""What an order would do to the account's margin, by the broker's own reckoning. It orders nothing."""

from __future__ import annotations

from airflow_ibkr_plugin.broker.codes import CODES
from airflow_ibkr_plugin.broker.convert import contract_of, order_of, to_optional
from airflow_ibkr_plugin.broker.gateway import Gateway
from airflow_ibkr_plugin.errors import BrokerError, OrderRejected
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket
from airflow_ibkr_plugin.trading.risk_facts import Margin


async def what_if(gateway: Gateway, instrument: Instrument, ticket: OrderTicket) -> Margin:
    """Ask for the margin after the order; an order that the broker would refuse is an answer too.

    The order carries no orderRef, so that nobody takes it for one that was placed.

    :raises BrokerError: there was no answer.
    """
    contract = contract_of(gateway.library, instrument)
    order = order_of(gateway.library, ticket, order_ref="", account=gateway.account)
    order.whatIf = True
    about = f"what-if of {ticket.side} {ticket.quantity:f} {instrument.name}"
    try:
        state = await gateway.ask("", lambda number: gateway.client.placeOrder(number, contract, order), about=about)
    except BrokerError as error:
        if error.code is None or CODES.get(error.code) is not OrderRejected:
            raise
        return Margin(refused=error.message)
    return Margin(
        initial_before=to_optional(state.initMarginBefore or None),
        initial_after=to_optional(state.initMarginAfter or None),
        equity_after=to_optional(state.equityWithLoanAfter or None),
    )
