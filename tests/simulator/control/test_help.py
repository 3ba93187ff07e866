"""The commands describe themselves, the docs describe the same ones, and every example runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.control.arming import ARMING
from airflow_ibkr_plugin.simulator.control.commands import COMMANDS
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

PAGE = (Path(__file__).parents[3] / "docs" / "simulator-faults.md").read_text()
EXAMPLES = re.findall(r'\{"cmd":.*?\}(?=`|\n)', PAGE)
# The faults' table names what all of them have in its head.
ARMED = {command.name for command in ARMING}
ROWS = {json.loads(row.split("`")[1])["cmd"]: row for row in PAGE.splitlines() if row.startswith('| `{"cmd"')}


def test_help_lists_every_command_with_its_fields_and_an_example(simulator: SimulatorHandle) -> None:
    told = {command["cmd"]: command for command in simulator.control("help")["commands"]}
    assert told.keys() == COMMANDS.keys()
    assert told["error"]["fields"][0] == {
        "name": "client",
        "is": "a whole number from 0 to 2147483647",
        "means": "a connected client's id",
        "required": True,
    }
    assert [command["cmd"] for command in simulator.control("help", about="clock")["commands"]] == ["clock"]


def test_the_page_has_a_row_for_each_command() -> None:
    assert ROWS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_row_shows_the_commands_example_and_names_its_fields(name: str) -> None:
    command = COMMANDS[name].describe()
    assert command["example"] in [json.loads(example) for example in EXAMPLES]
    armed = {"count", "client"} if name in ARMED else set()
    for field in command["fields"]:
        if field["name"] not in armed:
            assert f"`{field['name']}`" in ROWS[name]


def test_every_example_runs(simulator: SimulatorHandle, connect: Any, raw: Any, until: Any) -> None:
    assert len(EXAMPLES) > len(COMMANDS)
    trader = connect(simulator, 2)
    trade = trader.placeOrder(ibi.Stock("AAPL", "SMART", "USD"), ibi.MarketOrder("BUY", 1, orderRef="x"))
    until(trade.isDone)
    for example in EXAMPLES:
        simulator.control("login")
        simulator.control("connectivity", state="restored")
        simulator.control("disarm")
        if 1 not in simulator.control("status")["clients"]:
            raw(simulator, 1).until(9)
        command = json.loads(example)
        assert simulator.control(command.pop("cmd"), **command)["ok"]
