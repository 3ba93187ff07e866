"""The options of the command line that say what an account has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ib_insync
import pytest

from airflow_ibkr_plugin.simulator.commandline import EXIT_CONFIG, run


class Process:
    """Where a simulator in a process of its own listens."""

    def __init__(self, port: int) -> None:
        self.port = port


def test_cash_and_base_currency(connect: Callable[..., ib_insync.IB]) -> None:
    command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", "--port", "0"]
    command += ["--cash", "CHF=2500.50,JPY=1000000", "--base-currency", "CHF"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            ib = connect(Process(json.loads(process.stdout.readline())["port"]))
            told: dict[Any, str] = {(item.tag, item.currency): item.value for item in ib.accountValues()}
            ib.disconnect()
        finally:
            process.terminate()
    assert process.returncode == 0
    assert (told["CashBalance", "CHF"], told["CashBalance", "JPY"]) == ("2500.50", "1000000.00")
    assert ("NetLiquidation", "CHF") in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cash", "USD"], "--cash: 'USD'"),
        (["--cash", "SEK=5"], "--cash: 'SEK' is no currency"),
        (["--base-currency", "usd"], "--base-currency: 'usd' is no currency"),
    ],
)
def test_what_cannot_be_used_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--port", "0", *options]) == EXIT_CONFIG
    assert message in capsys.readouterr().err
