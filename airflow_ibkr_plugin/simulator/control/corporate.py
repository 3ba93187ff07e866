"""Commands that change what a holding consists of."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.control.fields import Answer, Command, Field, number
from airflow_ibkr_plugin.simulator.control.order_commands import CONTRACT, contract_at_ibkr

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

_LOW, _HIGH = 0.01, 100.0


def _split(simulator: Simulator, values: dict[str, Any]) -> Answer:
    instrument = contract_at_ibkr(simulator, values)
    simulator.desk.split(instrument, Decimal(str(values["ratio"])))
    for session in simulator.clients.started:
        session.account_subscriptions.books_changed(instrument.con_id)
    simulator.flush()
    return {"con_id": instrument.con_id}


CORPORATE = (
    Command(
        "split",
        "a stock is split: its prices, past ones too, and what is held of it; fractions are paid out; its orders end",
        {"symbol": "AAPL", "ratio": 4},
        _split,
        (
            *CONTRACT,
            Field("ratio", number(_LOW, _HIGH), "new shares for each old one"),
        ),
    ),
)
