"""The fixture `ibkr_gateway`. In the top conftest.py of a project:

    pytest_plugins = ["airflow_ibkr_plugin.testing.pytest_plugin"]

It is not loaded by itself: a project that only has this package installed should not pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.simulator.gateway import Options

#: Where the gateway's clock stands if nothing else is asked for: a Friday, 11:00 in New York.
IN_SESSION = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "ibkr_gateway(**options): how the fixture ibkr_gateway is started; fields of simulator.Options"
    )


@pytest.fixture
def ibkr_gateway(request: pytest.FixtureRequest) -> Iterator[SimulatorHandle]:
    """A simulated IB Gateway of the test's own, on free ports; its clock stands still inside a session.

    Options come from the marker `ibkr_gateway`, the nearest one first, or from an indirect parameter. With a `clock` it
    stands there instead; with `clock=None` it is real time.
    """
    options: dict[str, Any] = {"clock": IN_SESSION}
    for marker in reversed(list(request.node.iter_markers("ibkr_gateway"))):
        options |= marker.kwargs
    options |= getattr(request, "param", {})
    if unknown := options.keys() - (known := [field.name for field in fields(Options)]):
        raise pytest.UsageError(f"ibkr_gateway has no option {', '.join(unknown)}; there are {', '.join(known)}.")
    with start_simulator(**options) as gateway:
        if options["clock"] is not None:
            gateway.control("clock", set=options["clock"].isoformat(), freeze=True)
        yield gateway
