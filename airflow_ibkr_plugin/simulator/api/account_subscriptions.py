"""What a client wants to be told about its account: values, positions, profit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.account.figures import account_values, holding, origin
from airflow_ibkr_plugin.simulator.account.pnl import daily_pnl
from airflow_ibkr_plugin.simulator.market.hours import EASTERN
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session

#: Ledger keys of accountSummary's `$LEDGER`, by currency.
_LEDGER = frozenset(
    {
        "Currency",
        "CashBalance",
        "TotalCashBalance",
        "StockMarketValue",
        "NetLiquidationByCurrency",
        "RealizedPnL",
        "UnrealizedPnL",
        "ExchangeRate",
    }
)


class AccountSubscriptions:
    """A client's subscriptions to the account; request ids are the client's."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.summaries: dict[int, frozenset[str]] = {}
        self.multi: set[int] = set()
        self.pnl: dict[int, int | None] = {}
        self.account = False
        self.positions = False
        self._changed: set[int] = set()
        self._values: dict[tuple[str, str], str] = {}

    def books_changed(self, con_id: int) -> None:
        """Note that a position and cash have changed; sent with the next :meth:`send_changes`."""
        if self.account or self.positions or self.summaries or self.multi or self.pnl:
            self._changed.add(con_id)

    def send_changes(self) -> None:
        """Send what has changed to whatever is subscribed."""
        if not self._changed:
            return
        changed, self._changed = sorted(self._changed), set()
        for con_id in changed:
            if self.positions:
                self.send_position(con_id)
            if self.account:
                self._send_holding(con_id)
        if self.account:
            self._send_values(only_changes=True)
        for request, tags in self.summaries.items():
            self.send_summary(request, tags)
        for request in self.multi:
            self.send_multi(request)
        for request, con in self.pnl.items():
            self.send_pnl(request, con)

    def send_account(self) -> None:
        """Everything of the account subscription, with its end."""
        self._send_values(only_changes=False)
        for con_id, position in self._session.gateway.portfolio.positions.items():
            if position.quantity:
                self._send_holding(con_id)
        self._session.send(out.ACCOUNT_DOWNLOAD_END, account=self._session.gateway.account)

    def send_position(self, con_id: int) -> None:
        """One position."""
        gateway = self._session.gateway
        held = holding(gateway, con_id)
        self._session.send(
            out.POSITION,
            account=gateway.account,
            **held.instrument.wire() | {"exchange": "" if not held.instrument.is_forex else "IDEALPRO"},
            position=held.quantity,
            avgCost=held.average_cost,
        )

    def send_summary(self, request: int, tags: frozenset[str]) -> None:
        """The asked tags; what says that it is a simulation comes with any."""
        ledgers = {tag.partition(":")[2] or "BASE" for tag in tags if tag.startswith("$LEDGER")}
        always = {key for key, _, _ in origin(self._session.gateway)}
        for key, value, currency in account_values(self._session.gateway):
            in_ledger = key in _LEDGER and ("ALL" in ledgers or currency in ledgers)
            if key in tags or key in always or in_ledger:
                self._session.send(
                    out.ACCOUNT_SUMMARY,
                    reqId=request,
                    account=self._session.gateway.account,
                    key=key,
                    value=value,
                    currency=currency,
                )

    def send_multi(self, request: int) -> None:
        """All account values for an updatesMulti request."""
        for key, value, currency in account_values(self._session.gateway):
            self._session.send(
                out.ACCOUNT_UPDATE_MULTI,
                reqId=request,
                account=self._session.gateway.account,
                key=key,
                value=value,
                currency=currency,
            )

    def send_pnl(self, request: int, con_id: int | None) -> None:
        """The day's profit, of the account or of one position."""
        gateway = self._session.gateway
        if con_id is None:
            total = daily_pnl(gateway)
            self._session.send(
                out.PNL,
                reqId=request,
                dailyPnL=total.daily,
                unrealizedPnL=total.unrealized,
                realizedPnL=total.realized,
            )
            return
        held = holding(gateway, con_id)
        self._session.send(
            out.PNL_SINGLE,
            reqId=request,
            position=held.quantity,
            dailyPnL=daily_pnl(gateway, con_id).daily,
            unrealizedPnL=held.unrealized,
            realizedPnL=held.realized,
            value=held.value,
        )

    def _send_holding(self, con_id: int) -> None:
        gateway = self._session.gateway
        self._session.send(out.PORTFOLIO_VALUE, **holding(gateway, con_id).wire(gateway.account))

    def _send_values(self, *, only_changes: bool) -> None:
        gateway = self._session.gateway
        for key, value, currency in account_values(gateway):
            if only_changes and self._values.get((key, currency)) == value:
                continue
            self._values[key, currency] = value
            self._session.send(out.ACCOUNT_VALUE, key=key, value=value, currency=currency, account=gateway.account)
        now: Any = gateway.clock.now().astimezone(EASTERN)
        self._session.send(out.ACCOUNT_TIME, time=f"{now:%H:%M}")
