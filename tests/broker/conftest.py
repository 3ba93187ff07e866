"""The simulated gateway, standing inside a New York session, and sessions with it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator

TUESDAY_MORNING = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)  # 11:00 in New York

MakeSpec = Callable[..., GatewaySpec]


@pytest.fixture(scope="session")
def clock() -> datetime:
    """Where the simulated clock starts."""
    return TUESDAY_MORNING


@pytest.fixture(scope="module")
def simulator(clock: datetime) -> Iterator[SimulatorHandle]:
    """One gateway for a module's tests; its orders stay."""
    with start_simulator(clock=clock) as handle:
        yield handle


@pytest.fixture
def own_simulator(clock: datetime) -> Iterator[SimulatorHandle]:
    """A gateway that a test may break; with IBC's command server."""
    with start_simulator(clock=clock, ibc_port=0) as handle:
        yield handle


def spec_of(simulator: SimulatorHandle, **changes: object) -> GatewaySpec:
    fields = {"conn_id": "ibkr_test", "client_ids": range(10, 20), "account": "", "ibc_port": simulator.ibc_port}
    return GatewaySpec(host="127.0.0.1", port=simulator.port, **{**fields, **changes})


@pytest.fixture
def spec(simulator: SimulatorHandle) -> GatewaySpec:
    """The module's gateway."""
    return spec_of(simulator)


@pytest.fixture
def own_spec(own_simulator: SimulatorHandle) -> GatewaySpec:
    """The test's own gateway."""
    return spec_of(own_simulator)


@pytest.fixture
def session(spec: GatewaySpec) -> Iterator[BrokerSession]:
    """A session with the module's gateway."""
    with BrokerSession.open(spec, client_id=10) as opened:
        yield opened


@pytest.fixture
def impatient() -> Callable[[BrokerSession], AbstractContextManager[None]]:
    """A session waits no longer than 0.3 s for an answer meanwhile; it is opened, and used else, at its own pace."""

    @contextmanager
    def meanwhile(session: BrokerSession) -> Iterator[None]:
        gateway = session._gateway
        gateway.spec = replace(session.spec, timeout=0.3)
        try:
            yield
        finally:
            gateway.spec = session.spec

    return meanwhile
