"""A worker process of the tests, as an Airflow task would run one: opens a session, executes one request.

Reads a JSON object from its first argument, prints the outcome as JSON. Where `kill` is given, the process ends itself
with SIGKILL at the n-th call of the named boundary, before or after it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from airflow_ibkr_plugin.broker import library
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import IntentBusy
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.brackets import BracketPlan
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.plans import TicketPlan
from airflow_ibkr_plugin.trading.risk_rules import rules
from airflow_ibkr_plugin.trading.sizing import Sizing


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function: Callable[..., Any], at: int, when: str) -> Callable[..., Any]:
    calls = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and when == "before":
            die()
        result = function(*arguments, **named)
        if calls == at:
            die()
        return result

    return wrapped


def arm(database: Database, boundary: str, at: int, when: str) -> None:
    """`commit`: of the trading database; `placeOrder`: the message on the socket; else a method of BrokerSession."""
    if boundary == "placeOrder":
        client = library.load().Client
        client.placeOrder = dying(client.placeOrder, at, when)
    elif boundary != "commit":
        setattr(BrokerSession, boundary, dying(getattr(BrokerSession, boundary), at, when))
    else:
        write, commits = database.write, 0

        @contextmanager
        def wrapped(**named: Any) -> Iterator[Any]:
            nonlocal commits
            commits += 1
            mine = commits == at
            with write(**named) as transaction:
                yield transaction
                transaction.flush()
                if mine and when == "before":
                    die()
            if mine:
                die()

        database.write = wrapped  # type: ignore[method-assign]


def main() -> None:
    given = json.loads(sys.argv[1])
    recover.SETTLE_SECONDS = 0.5
    known = {rule.name: rule for rule in rules()}
    spec = GatewaySpec(
        conn_id="ibkr_default", host="127.0.0.1", port=given["port"], client_ids=range(10, 30), account="DU1234567"
    )
    database = Database(given["url"])
    limit, bracket = given.get("limit_price"), given.get("bracket")
    with leased_session(spec, database, owner=given["owner"]) as session:
        instrument = session.resolve(InstrumentSpec.parse(given.get("symbol", "SPY")))
        request = OrderRequest(
            key=IntentKey(
                installation="test",
                dag_id=given["strategy"],
                run_id=given["run_id"],
                task_id="order",
                con_id=instrument.con_id,
            ),
            strategy=given["strategy"],
            source=session.source,
            account=session.account,
            mode="paper",
            instrument=instrument,
            ticket=TicketPlan(side=Side.BUY, sizing=Sizing.parse({"quantity": 10}), bracket=BracketPlan.parse(bracket))
            if bracket
            else OrderTicket(
                side=Side.BUY,
                quantity=Decimal(given.get("quantity", 10)),
                order_type=OrderType.LIMIT if limit else OrderType.MARKET,
                limit_price=Decimal(limit) if limit else None,
            ),
            rules=tuple((known[name], parameters) for name, parameters in given.get("rules", {}).items()),
            wait_seconds=given.get("wait_seconds", 30.0),
        )
        if "barrier" in given:
            Path(given["barrier"], given["owner"]).touch()
            while not Path(given["barrier"], "go").exists():
                time.sleep(0.005)
        if "kill" in given:
            arm(database, *given["kill"])
        while True:
            try:
                outcome = execute(session, database, request, owner=given["owner"])
                break
            except IntentBusy:
                time.sleep(0.05)
    print(json.dumps(outcome.to_dict()))


main()
