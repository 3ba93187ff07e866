"""Connect, one year of daily bars, market order to filled: our broker seam against a plain ib_insync script.

No commits on either side. Both speak to the same simulated gateway, a process of its own. Aim: at most 1.3 times.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from decimal import Decimal

from benchmarks.gateway import gateway
from benchmarks.timing import Stopwatch, in_turn, show_ratio

ROUNDS = 15
_client_ids = itertools.count(100)


def main() -> None:
    """Print the table."""
    with gateway() as running:
        taken = in_turn(ROUNDS, {"seam": lambda: seam(running.port), "plain": lambda: asyncio.run(plain(running.port))})
    show_ratio(taken, "seam", "plain", "at most 1.3")


def seam(port: int) -> Mapping[str, float]:
    """The three steps through `airflow_ibkr_plugin.broker`."""
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.broker.spec import GatewaySpec
    from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
    from airflow_ibkr_plugin.trading.orders import OrderTicket, Side

    spec = GatewaySpec(conn_id="bench", host="127.0.0.1", port=port, client_ids=range(1, 2), account="")
    watch = Stopwatch()
    with BrokerSession.open(spec, client_id=next(_client_ids)) as session:
        watch.lap("connect")
        instrument = session.resolve(InstrumentSpec(symbol="SPY"))
        bars = session.history(instrument, bar_size="1 day", duration="1 Y", end=None)
        assert len(bars) > 200
        watch.lap("one year of daily bars")
        ticket = OrderTicket(side=Side.BUY, quantity=Decimal(1))
        order_id = session.next_order_id()
        order = session.place(
            instrument, ticket, order_id=order_id, order_ref=f"bench-{order_id}", account=session.account
        )
        truth = session.wait_terminal(order, seconds=10)
        assert truth.executions
        watch.lap("order to filled")
    return watch.steps


async def plain(port: int) -> Mapping[str, float]:
    """The same three steps as an ib_insync user would write them."""
    from ib_insync import IB, MarketOrder, Stock

    ib = IB()
    watch = Stopwatch()
    await ib.connectAsync("127.0.0.1", port, clientId=next(_client_ids))
    watch.lap("connect")
    (contract,) = await ib.qualifyContractsAsync(Stock("SPY", "SMART", "USD"))
    bars = await ib.reqHistoricalDataAsync(contract, "", "1 Y", "1 day", "TRADES", True, 2)
    assert len(bars) > 200
    watch.lap("one year of daily bars")
    trade = ib.placeOrder(contract, MarketOrder("BUY", 1, tif="DAY"))
    while not (trade.isDone() and trade.fills and trade.fills[0].commissionReport.execId):
        await ib.updateEvent
    watch.lap("order to filled")
    ib.disconnect()
    return watch.steps
