"""Whether a stop that is gone was cancelled by a split that is not booked yet: its price would be one of old shares."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import NoMarketData
from airflow_ibkr_plugin.execution.intent import load_row
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.orders import OrderTicket, Side
from airflow_ibkr_plugin.trading.sizing import usable_price

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.intent import Job

#: A market that is this many times beyond a stop that is gone, or away from the entry, may be one after a split.
JUMP = Decimal("1.4")


def unbooked_split(job: Job, stop: OrderTicket) -> str:
    """Why the market looks like one after a split, in words; '' where it does not.

    Far beyond the stop it may be one in any case: the stop would trade at once. Far from where the entry filled it is
    one where the account holds another quantity than is booked.

    :param job: of the bracket's entry, which has filled.
    :raises BrokerError: the broker could not be asked.
    """
    try:
        market = job.session.quote(job.instrument).reference
    except NoMarketData:
        return ""
    if market is None or not usable_price(market) or stop.stop_price is None:
        return ""
    beyond = stop.stop_price / market if stop.side is Side.SELL else market / stop.stop_price
    if beyond < JUMP and not (_moved(job, market) >= JUMP and _holds_otherwise(job)):
        return ""
    return f"the market is at {market:f}, with the stop at {stop.stop_price:f}, as after a split that is not booked"


def _moved(job: Job, market: Decimal) -> Decimal:
    """How many times the market is above, or below, where the entry filled, at prices of one share."""
    with job.database.read() as transaction:
        fill = Executions(transaction).for_intent(job.intent_id)[-1]
        shares = Units(transaction).shares_since(load_row(transaction, job.intent_id), fill.time)
    ratio = market * shares / fill.price
    return max(ratio, 1 / ratio)


def _holds_otherwise(job: Job) -> bool:
    """Whether the account holds another quantity of the contract than the books say."""
    entry = job.load()
    theirs = sum((one.quantity for one in job.session.positions() if one.con_id == entry.con_id), Decimal(0))
    with job.database.read() as transaction:
        booked = Positions(transaction).of_strategies(entry.source, entry.account, entry.con_id)
        beside = Reconciliations(transaction, entry.source, entry.account).unexplained().get(entry.con_id)
    ours = sum((own.quantity for own in booked), Decimal(0))
    return theirs != ours + (beside.quantity if beside is not None else 0)
