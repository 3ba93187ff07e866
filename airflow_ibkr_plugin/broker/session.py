"""The broker session: what everything above the seam uses. Blocking calls, values in and out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, TypeVar

from airflow_ibkr_plugin.broker import bracket_placement, placement, queries
from airflow_ibkr_plugin.broker.bracket_placement import Leg
from airflow_ibkr_plugin.broker.gateway import Gateway
from airflow_ibkr_plugin.broker.loop import PrivateLoop
from airflow_ibkr_plugin.broker.profit import daily_pnl
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.broker.what_if import what_if
from airflow_ibkr_plugin.errors import BrokerError, OrderRejected
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution, OrderTicket
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Position, Quote
from airflow_ibkr_plugin.trading.risk_facts import Margin

T = TypeVar("T")


class BrokerSession:
    """One open API connection. A context manager; its methods may be called from any thread.

    Every method raises GatewayUnavailable when the connection is lost, and BrokerTimeout when an answer does not come
    within the spec's time-out; further errors are named where they belong.

    :ivar client_id: the API client id it holds.
    :ivar account: the account it trades.
    :ivar simulated: whether the gateway is the simulated one.
    :ivar simulated_clock: whether its clock is not the real one.
    :ivar source: `simulator:<conn_id>`, `paper:<conn_id>` or `live:<conn_id>`.
    :ivar on_complaint: told, in the thread that asked, when IBKR complains of the pace of anything but history: what
        was asked, the complaint, and how many seconds ago it was asked. `connect.leased_session` has it stored.
    """

    def __init__(self, loop: PrivateLoop, gateway: Gateway) -> None:
        """Use :meth:`open`, or `connect.leased_session` where others use the same gateway."""
        self._loop = loop
        self._gateway = gateway
        self._closing = threading.Lock()
        self._closed = False
        self.spec: GatewaySpec = gateway.spec
        self.client_id: int = gateway.client_id
        self.account: str = gateway.account
        self.simulated: bool = gateway.simulated
        self.simulated_clock: bool = gateway.simulated_clock
        self.source: str = gateway.source
        self.on_complaint: Callable[[str, BrokerError, float], None] = lambda *_: None

    @classmethod
    def open(cls, spec: GatewaySpec, *, client_id: int) -> BrokerSession:
        """Connect under a client id that the caller knows to be free.

        :raises GatewayUnavailable, SessionInvalid, ClientIdInUse: see :meth:`Gateway.log_in`.
        :raises ConfigError, LiveTradingRefused: the account is not the one, or not of the kind, that the spec names.
        """
        loop = PrivateLoop(f"ibkr-{spec.conn_id}-{client_id}")
        try:
            return cls(loop, loop.run(_open(spec, client_id)))
        except BaseException:
            loop.close()
            raise

    def close(self) -> None:
        """Hang up and free the client id. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            self._loop.run(self._gateway.close())
        finally:
            self._loop.close()

    def __enter__(self) -> BrokerSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        started = time.monotonic()
        try:
            return self._run_paced(coroutine)
        finally:
            while self._gateway.journal.complaints:
                complaint = self._gateway.journal.complaints.popleft()
                asked = getattr(coroutine, "__name__", "?")  # of an async function its own: quote, place, ...
                self.on_complaint(asked, complaint, time.monotonic() - started)

    def _run_paced(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            coroutine.close()
            raise ValueError("this broker session is closed")
        return self._loop.run(coroutine)

    # --- market -----------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The broker's clock, aware UTC, whole seconds."""
        return self._run(self._gateway.now())

    def resolve(self, spec: InstrumentSpec) -> Instrument:
        """The one contract that matches, with its trading hours of the next days.

        :raises UnknownContract: none matches.
        :raises AmbiguousContract: several do; lists them and names the field that tells them apart.
        """
        return self._run(queries.resolve(self._gateway, spec))

    def history(
        self,
        instrument: Instrument,
        *,
        bar_size: str,
        duration: str,
        end: datetime | None,
        what: str = "TRADES",
        use_rth: bool = True,
    ) -> list[Bar]:
        """Historical bars, oldest first; waits six times the spec's time-out. Not paced: see `pacing.py`.

        :param bar_size: one of `trading.bars.BAR_SIZES`. :param duration: in IBKR's words, such as `1 Y`.
        :param end: aware; None for now.
        :raises NoMarketData: there are none, or the account may not see them. :raises PacingViolation: asked too much.
        """
        try:
            return self._run_paced(
                queries.history(
                    self._gateway, instrument, bar_size=bar_size, duration=duration, end=end, what=what, use_rth=use_rth
                )
            )
        finally:
            self._gateway.journal.complaints.clear()  # they are in the error, and whoever paces it stores them

    def quote(self, instrument: Instrument) -> Quote:
        """A snapshot; delayed and frozen data are marked `delayed`.

        :raises NoMarketData: no price came, or the account may not see any.
        """
        return self._run(queries.quote(self._gateway, instrument))

    # --- orders -----------------------------------------------------------------------------------------

    def next_order_id(self) -> int:
        """The next order id that the gateway offers this client id. Not durable: allocate by `order_ids`."""
        return self._run(self._gateway.next_order_id())

    def find_by_ref(self, order_ref: str) -> BrokerTruth:
        """Ask afresh for open orders (of all clients), completed orders and executions with this orderRef.

        :raises BrokerError: one of the three could not be asked.
        """
        return self._run(queries.find(self._gateway, placement.by_ref(order_ref)))

    def find_by_perm_id(self, perm_id: int) -> BrokerTruth:
        """The same for one permId."""
        return self._run(queries.find(self._gateway, placement.by_perm_id(perm_id)))

    def everything(self) -> BrokerTruth:
        """The same for all orders and executions; `queries.select` picks those of one order."""
        return self._run(queries.everything(self._gateway))

    def listen(self, *, seconds: float) -> bool:
        """Whether the gateway said anything of an order, a fill or a holding since :meth:`everything` was asked for.

        Returns as soon as it did, at the latest after so many seconds.
        It tells of the orders of this client id, and of the account's holdings whoever changed them.

        :raises SessionInvalid: the gateway has lost its session with IBKR.
        """
        return self._run(queries.listen(self._gateway, seconds))

    def place(
        self, instrument: Instrument, ticket: OrderTicket, *, order_id: int, order_ref: str, account: str
    ) -> BrokerOrder:
        """Send an order; returns when the broker has acknowledged it with a permId.

        The caller has committed the intent and has looked for its orderRef; `order_id` is from `order_ids`.

        :raises OrderRejected: refused, confirmed by asking the broker afresh.
        :raises OrderIdInUse: nothing was placed; allocate another id.
        :raises GatewayUnavailable, BrokerTimeout: unknown whether it arrived.
        """
        return self._run(
            placement.place(self._gateway, instrument, ticket, order_id=order_id, order_ref=order_ref, account=account)
        )

    def place_bracket(
        self, instrument: Instrument, legs: Sequence[Leg], *, account: str
    ) -> list[BrokerOrder | OrderRejected]:
        """Send orders as one unit, the entry first and the stop last; returns each as acknowledged, or refused.

        :raises OrderIdInUse: nothing was placed. :raises GatewayUnavailable, BrokerTimeout: unknown what arrived.
        """
        return self._run(bracket_placement.place_bracket(self._gateway, instrument, legs, account=account))

    def discard(self, order_ids: Collection[int], order_refs: Collection[str]) -> BrokerTruth:
        """Take back what the gateway keeps of this client id without having sent it on; returns what the broker has."""
        return self._run(bracket_placement.discard(self._gateway, order_ids, order_refs))

    def resize(self, instrument: Instrument, order: BrokerOrder, ticket: OrderTicket, quantity: Decimal) -> BrokerOrder:
        """Change the quantity of a working order of this client id.

        :raises BrokerError: it is another's, or the change was refused. :raises BrokerTimeout: unknown.
        """
        return self._run(bracket_placement.resize(self._gateway, instrument, order, ticket, quantity))

    def what_if(self, instrument: Instrument, ticket: OrderTicket) -> Margin:
        """What the order would do to the account's margin; nothing is ordered.

        :raises BrokerError: there was no answer.
        """
        return self._run(what_if(self._gateway, instrument, ticket))

    def wait_terminal(self, order: BrokerOrder, *, seconds: float) -> BrokerTruth:
        """Return when the order has ended and all its executions and commissions are in, or after `seconds`."""
        return self._run(placement.wait_terminal(self._gateway, order, seconds=seconds))

    def cancel(self, order: BrokerOrder, *, seconds: float) -> BrokerTruth:
        """Cancel an order of this client id; returns when it has ended, cancelled or filled.

        :raises BrokerError: another client id placed it; only that one can cancel it.
        :raises BrokerTimeout: its end was not confirmed in time.
        """
        return self._run(placement.cancel(self._gateway, order, seconds=seconds))

    # --- books ------------------------------------------------------------------------------------------

    def daily_pnl(self) -> Decimal:
        """Profit of the account on the broker's day, realised and unrealised, in its base currency; < 0 for a loss.

        :raises BrokerTimeout: the broker told none.
        """
        return self._run(daily_pnl(self._gateway))

    def executions(self) -> list[Execution]:
        """The account's executions of the broker's current day, oldest first, asked afresh."""
        return self._run(queries.executions(self._gateway))

    def positions(self) -> list[Position]:
        """What the account holds, asked afresh; market values as last sent."""
        return self._run(queries.positions(self._gateway))

    def account_snapshot(self) -> AccountSnapshot:
        """The account's worth (as last sent) and positions (asked afresh)."""
        return self._run(queries.account_snapshot(self._gateway))


async def _open(spec: GatewaySpec, client_id: int) -> Gateway:
    gateway = Gateway(spec, client_id)  # here, on the loop's thread: it imports the client library
    try:
        await gateway.open()
    except BaseException:
        await gateway.close()
        raise
    return gateway
