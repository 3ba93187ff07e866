"""A fill of a bracket's entry that IBKR took back: no exit stays for what is not held any more."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from airflow_ibkr_plugin.execution.flex import import_statement
from airflow_ibkr_plugin.trading.orders import BracketState


def take_back(floor: Any, flex: Any, path: Path, number: int) -> None:
    with floor.session() as session:
        fills = [fill for fill in session.executions() if fill.order_ref == floor.legs()["entry"].order_ref]
    found = import_statement(floor.database, flex.read(path, [flex.cancel(fills[number], fills[number].commission)]))
    assert len(found.taken_back) == 1


def mend(floor: Any) -> None:
    """As the service does."""
    with floor.session() as session:
        floor.execute(session, floor.request(session))


def test_the_exits_end_when_the_entry_was_taken_back(floor: Any, flex: Any, tmp_path: Path) -> None:
    floor.bracket()
    assert set(floor.working()) == {"stop", "target"}
    take_back(floor, flex, tmp_path / "flex.xml", 0)
    assert floor.held() == 0
    mend(floor)
    assert floor.working() == {}
    assert floor.legs()["entry"].bracket is BracketState.CLOSED
    assert len([alert for alert in floor.alerts() if "IBKR took back BUY 10 KO" in alert]) == 1


def test_the_exits_are_for_what_is_left_when_a_part_was_taken_back(floor: Any, flex: Any, tmp_path: Path) -> None:
    floor.bracket(quantity=12_000)
    with floor.session() as session:
        first, *_, last = session.executions()
    assert floor.held() == 12_000
    take_back(floor, flex, tmp_path / "flex.xml", -1)
    assert floor.held() == 12_000 - last.quantity >= first.quantity
    mend(floor)
    left = {leg: Decimal(quantity) for leg, (quantity, _) in floor.working().items()}
    assert left == {"stop": floor.held(), "target": floor.held()}
