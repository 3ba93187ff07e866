"""What exactly-once adds to an order: from the request to filled and booked, against a bare placeOrder to filled.

Ours commits the intent, its lease, the risk decisions, the reservation, the order id, the send and the fills, and asks
the broker before it sends. Bare is ib_insync, on the same simulated gateway; asking is ib_insync alone, asking for all
open and completed orders and all executions, as ours must before it sends. With an empty day and with a busy one:
1,000 orders at the gateway, 4,000 in the database. Aim: below 50 ms added on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, Side
from benchmarks.databases import databases, fill_with_orders
from benchmarks.gateway import Running, gateway
from benchmarks.raw_client import RawClient

ROUNDS, WARM_UP, BUSY = 20, 2, 1000
#: Between two rounds, so that ib_insync never waits for the 45 messages a second that it allows itself.
_SPACING_SECONDS = 0.5
_numbers = itertools.count(1)


def main() -> None:
    """Print the table."""
    logging.getLogger("airflow_ibkr_plugin").setLevel(logging.WARNING)
    settings.load()  # Airflow is imported before the clock runs, as in its workers
    heads = ("ours ms", "bare ms", "added ms", "asking ms", "the rest ms")
    print(f"{'database':12} {'day':6}" + "".join(f"{head:>12}" for head in heads), "  aim: added < 50 on PostgreSQL")
    with databases() as opened:
        for name, database in opened.items():
            with gateway("--message-rate", "0") as running:
                _row(name, "empty", running, database)
                RawClient(running.port, 900).fill(BUSY)
                fill_with_orders(database, "simulator:past", "DU0000001", datetime.now(UTC))
                _row(name, "busy", running, database)


def _row(name: str, day: str, running: Running, database: Database) -> None:
    spec = GatewaySpec(conn_id="bench", host="127.0.0.1", port=running.port, client_ids=range(1, 2), account="")
    with BrokerSession.open(spec, client_id=next(_numbers)) as session:
        instrument = session.resolve(InstrumentSpec(symbol="SPY"))
        with asyncio.Runner() as runner:
            ib = runner.run(_connected(running.port))
            rounds = []
            for _ in range(ROUNDS + WARM_UP):
                time.sleep(_SPACING_SECONDS)
                placed = _timed(lambda: ours(session, database, instrument)), _timed(lambda: runner.run(bare(ib)))
                rounds.append((*placed, _timed(lambda: runner.run(asking(ib)))))
            ib.disconnect()
    mine, plain, asked = (statistics.median(column) * 1000 for column in zip(*rounds[WARM_UP:], strict=True))
    columns = (mine, plain, mine - plain, asked, mine - plain - asked)
    print(f"{name:12} {day:6}" + "".join(f"{column:12.1f}" for column in columns), flush=True)


def _timed(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def ours(session: BrokerSession, database: Database, instrument: Instrument) -> None:
    """One order through the whole order path."""
    key = IntentKey(installation="b", dag_id="b", run_id=str(next(_numbers)), task_id="o", con_id=instrument.con_id)
    request = OrderRequest(
        key=key,
        strategy="b",
        source=session.source,
        account=session.account,
        mode="paper",
        instrument=instrument,
        ticket=OrderTicket(side=Side.BUY, quantity=Decimal(1)),
    )
    outcome = execute(session, database, request, owner="bench")
    assert outcome.state is IntentState.FILLED, outcome.reason


async def _connected(port: int) -> Any:
    from ib_insync import IB

    ib = IB()
    await ib.connectAsync("127.0.0.1", port, clientId=500 + next(_numbers))
    return ib


async def bare(ib: Any) -> None:
    """One order as an ib_insync user would place it, until its commission is there."""
    from ib_insync import MarketOrder, Stock

    contract = Stock("SPY", "SMART", "USD")
    trade = ib.placeOrder(contract, MarketOrder("BUY", 1, tif="DAY"))
    while not (trade.isDone() and trade.fills and trade.fills[0].commissionReport.execId):
        await ib.updateEvent


async def asking(ib: Any) -> None:
    """The three questions that must be asked before an order is sent."""
    await ib.reqAllOpenOrdersAsync()
    await ib.reqCompletedOrdersAsync(False)
    await ib.reqExecutionsAsync()
