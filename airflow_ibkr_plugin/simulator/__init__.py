"""A simulated IB Gateway that speaks the TWS socket protocol. See docs/simulator.md.

>>> from airflow_ibkr_plugin.simulator import run
>>> run(["--port", "0"])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.commandline import build_parser, run

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.gateway import Options
    from airflow_ibkr_plugin.simulator.server import Simulator

__all__ = ["Options", "Simulator", "build_parser", "run"]


def __getattr__(name: str) -> Any:
    # numpy comes with these; a command line that only lists the simulator must not pay for it.
    if name == "Simulator":
        from airflow_ibkr_plugin.simulator.server import Simulator

        return Simulator
    if name == "Options":
        from airflow_ibkr_plugin.simulator.gateway import Options

        return Options
    raise AttributeError(name)
