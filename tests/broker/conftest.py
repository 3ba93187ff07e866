"""The simulated gateway, standing inside a New York session, and sessions with it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.history import BarsRequest, BarsResult, fetch_bars
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.store.bars import Bars
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec

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


class Watched:
    """The real session; notes what is asked, and may tamper with the clock and with what is answered."""

    def __init__(self, session: BrokerSession) -> None:
        self._session = session
        self.source = session.source
        self.spec = session.spec
        self.asked: list[tuple[str, datetime | None]] = []
        self.tamper: Callable[[list[Bar]], list[Bar]] = lambda bars: bars
        self.clock: datetime | None = None

    def now(self) -> datetime:
        return self.clock or self._session.now()

    def history(self, instrument: Instrument, *, duration: str, end: datetime | None, **rest: Any) -> list[Bar]:
        self.asked.append((duration, end))
        bars = self._session.history(instrument, duration=duration, end=end or self.clock, **rest)
        return self.tamper(bars)


@pytest.fixture
def broker(session: BrokerSession) -> Watched:
    """See :class:`Watched`."""
    return Watched(session)


@pytest.fixture(scope="module")
def instruments(simulator: SimulatorHandle) -> dict[str, Instrument]:
    """SPY and EUR.USD as the module's gateway knows them."""
    with BrokerSession.open(spec_of(simulator), client_id=30) as opened:
        return {name: opened.resolve(InstrumentSpec.parse(name)) for name in ("SPY", "EUR.USD")}


@pytest.fixture
def spy(instruments: dict[str, Instrument]) -> Instrument:
    """A US stock."""
    return instruments["SPY"]


@pytest.fixture
def fetch(broker: Watched, database: Database, spy: Instrument) -> Callable[..., BarsResult]:
    """`fetch_bars` through the watched session: a year of daily bars of SPY, unless told otherwise."""

    def run(request: BarsRequest | None = None, instrument: Instrument = spy) -> BarsResult:
        return fetch_bars(broker, database, instrument, request or BarsRequest())  # type: ignore[arg-type]

    return run


@pytest.fixture
def stored(broker: Watched, database: Database, spy: Instrument) -> Callable[..., list[Bar]]:
    """The cached bars of SPY, of the size that it is called with."""

    def load(bar_size: str = "1 day") -> list[Bar]:
        with database.read() as transaction:
            key = (broker.source, spy.con_id, bar_size, "TRADES", True)
            return Bars(transaction).load(*key, datetime(1990, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))

    return load
