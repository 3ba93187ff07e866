"""Commands that change what a holding consists of."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.control.fields import Answer, Command, Field, integer, number

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

_LOW, _HIGH = 0.01, 100.0


def _split(simulator: Simulator, values: dict[str, Any]) -> Answer:
    gateway, con_id = simulator.gateway, values["con_id"]
    simulator.desk.step()
    gateway.split(con_id, Decimal(str(values["ratio"])))
    for session in simulator.clients.started:
        session.account_subscriptions.books_changed(con_id)
    simulator.flush()
    return {}


CORPORATE = (
    Command(
        "split",
        "a stock is split: its prices, past ones too, and what is held of it; fractions are paid out; orders stay",
        {"con_id": 265598, "ratio": 4},
        _split,
        (
            Field("con_id", integer(1), "the stock's conId"),
            Field("ratio", number(_LOW, _HIGH), "new shares for each old one"),
        ),
    ),
)
