"""What the scenarios say and hear: one small language over client libraries that differ in every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class ConnectionRefused(Exception):
    """The gateway did not let the client in; `codes` are those of the errors that it gave."""

    def __init__(self, errors: list[tuple[int, int, str]]) -> None:
        self.codes = [code for _, code, _ in errors]
        super().__init__(errors)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An order to place, for a US stock."""

    action: str = "BUY"
    quantity: int = 100
    kind: str = "MKT"
    limit: float | None = None
    stop: float | None = None
    tif: str = "DAY"
    ref: str = ""
    parent: int = 0
    transmit: bool = True


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order as the client library shows it; `limit` and `stop` are 0 where it has none."""

    order_id: int
    perm_id: int
    ref: str
    symbol: str
    action: str
    quantity: float
    kind: str
    limit: float
    stop: float
    tif: str
    status: str
    client_id: int = 0
    parent: int = 0
    filled: float = 0
    average: float = 0


@dataclass(frozen=True, kw_only=True)
class Fill:
    """An execution with what its commission report added; None until it has come."""

    exec_id: str
    order_id: int
    perm_id: int
    client_id: int
    ref: str
    symbol: str
    side: str
    shares: float
    price: float
    commission: float | None
    currency: str | None


@dataclass(frozen=True, kw_only=True)
class Details:
    """Contract details."""

    con_id: int
    symbol: str
    primary_exchange: str
    currency: str
    min_tick: float
    time_zone: str
    liquid_hours: str
    ids: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A daily bar; `day` is YYYYMMDD."""

    day: str
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, kw_only=True)
class Position:
    """A holding."""

    symbol: str
    quantity: float
    average_cost: float


class Driver(Protocol):
    """A client. Queries wait for their answer; what goes on by itself is looked at under :meth:`until`.

    :ivar errors: (id, code, text) of every error and notice so far.
    """

    errors: list[tuple[int, int, str]]

    def connect(self, port: int, client_id: int) -> None:
        """Connect and start; raises :class:`ConnectionRefused`."""

    def disconnect(self) -> None: ...

    @property
    def connected(self) -> bool: ...

    @property
    def server_version(self) -> int: ...

    def accounts(self) -> list[str]: ...

    def until(self, condition: Callable[[], T]) -> T:
        """Wait until the condition is truthy; returns what it returned."""

    def server_time(self) -> int: ...

    def details(self, symbol: str, currency: str = "USD") -> list[Details]: ...

    def daily_bars(self, symbol: str, duration: str) -> list[Bar]: ...

    def snapshot(self, symbol: str) -> dict[str, float]:
        """`bid`, `ask`, `last` and `close` of one snapshot."""

    def open_stream(self, symbol: str) -> Any: ...

    def stream_prices(self, stream: Any) -> dict[str, float]:
        """The last of each of the same so far."""

    def close_stream(self, stream: Any) -> None: ...

    def place(self, symbol: str, wanted: Wanted) -> int:
        """Place an order under a new id, which is returned."""

    def new_order_id(self) -> int: ...

    def modify(self, order_id: int, wanted: Wanted) -> None: ...

    def cancel(self, order_id: int) -> None: ...

    def cancel_all(self) -> None: ...

    def order(self, order_id: int) -> Order | None:
        """What this client was told of its order so far."""

    def fills(self, order_id: int) -> list[Fill]: ...

    def what_if(self, symbol: str, wanted: Wanted) -> dict[str, float]:
        """`init_margin_change`, `commission`."""

    def open_orders(self, *, everyone: bool) -> list[Order]: ...

    def completed_orders(self) -> list[Order]: ...

    def executions(self, symbol: str = "", side: str = "", client_id: int = 0) -> list[Fill]: ...

    def positions(self) -> list[Position]: ...

    def account_values(self) -> dict[str, str]:
        """Account updates in the account's own currency, by key."""

    def account_summary(self, *tags: str) -> dict[str, str]: ...

    def profit(self) -> dict[str, float]:
        """`daily`, `unrealized`, `realized` of the account."""
