"""For anyone who tests code that talks to IBKR: a simulated gateway in your own tests. See docs/simulator.md.

>>> from airflow_ibkr_plugin.testing import start_simulator
>>> with start_simulator() as gateway:
...     gateway.control("status")["online"]
True
"""

from __future__ import annotations

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator

__all__ = ["SimulatorHandle", "start_simulator"]
