"""What a client wants to be told about its account: values, positions, profit.

As at IBKR: positions and account values come when a position changes, and every three minutes what has changed since;
an account summary every three minutes only; profit once a second. Nothing is repeated that has not changed.
"""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.account.figures import holding
from airflow_ibkr_plugin.simulator.account.pnl import account_pnl, position_pnl
from airflow_ibkr_plugin.simulator.account.values import Value, account_values, ledger_values, summary_values
from airflow_ibkr_plugin.simulator.market.hours import EASTERN
from airflow_ibkr_plugin.simulator.wire import tables_out as out
from airflow_ibkr_plugin.simulator.wire.fields import UNSET_DOUBLE, Message

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session

#: Seconds between two updates that no trade causes. Source: TWS API, "Account Updates" and "Account Summary".
REFRESH_SECONDS = 180.0
# Real seconds between two rounds of account values, and of profit: many fills make one round.
_VALUES_SECONDS = 0.25
_PNL_SECONDS = 1.0

_Sent = dict[tuple[str, str], str]


class AccountSubscriptions:
    """A client's subscriptions to the account; request ids are the client's.

    :ivar summaries: tags by request id. :ivar multi: whether only ledgers are asked for. :ivar pnl: conId, None for
        the account.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.summaries: dict[int, frozenset[str]] = {}
        self.multi: dict[int, bool] = {}
        self.pnl: dict[int, int | None] = {}
        self.account = False
        self.positions = False
        self._changed: set[int] = set()
        self._values_due = False
        self._values_from = self._pnl_from = 0.0
        self._refreshed = session.gateway.clock.time()
        self._account_sent: _Sent = {}
        self._holdings_sent: dict[int, dict[str, Any]] = {}
        self._summaries_sent: dict[int, _Sent] = {}
        self._multi_sent: dict[int, _Sent] = {}
        self._pnl_sent: dict[int, dict[str, Any]] = {}

    # --- what happens ----------------------------------------------------------------------------

    def books_changed(self, con_id: int) -> None:
        """Note that a position and cash have changed."""
        if self.account or self.positions or self.multi:
            self._changed.add(con_id)

    def send_changes(self) -> None:
        """Send what has changed to whatever is subscribed: positions at once, figures as often as they may come.

        It is called after everything that happens, and several times a second.
        """
        self._send_changed_positions()
        if time.monotonic() >= self._values_from:
            self._send_changed_values()
        if self.pnl and time.monotonic() >= self._pnl_from:
            self.send_pnl()

    def _send_changed_positions(self) -> None:
        changed, self._changed = sorted(self._changed), set()
        for con_id in changed:
            self._values_due = True
            if self.positions:
                self.send_position(con_id)
            if self.account:
                self._send_holding(con_id)

    def _send_changed_values(self) -> None:
        now = self._session.gateway.clock.time()
        refresh = abs(now - self._refreshed) >= REFRESH_SECONDS
        if refresh:
            self._refreshed = now
            for request in self.summaries:
                self.send_summary(request)
            if self.account:
                for con_id, position in self._session.gateway.portfolio.positions.items():
                    if position.quantity:
                        self._send_holding(con_id)
        if refresh or self._values_due:
            self._values_due = False
            self._values_from = time.monotonic() + _VALUES_SECONDS
            if self.account:
                self._send_values()
            for request in self.multi:
                self.send_multi(request)

    # --- messages ----------------------------------------------------------------------------------

    def send_account(self) -> None:
        """Everything of the account subscription, with its end."""
        self._account_sent.clear()
        self._holdings_sent.clear()
        self._send_values()
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

    def send_summary(self, request: int) -> None:
        """The asked tags, those that the request has not been sent yet as they are now."""
        values = summary_values(self._session.gateway, self.summaries[request])
        self._send_new(out.ACCOUNT_SUMMARY, values, self._summaries_sent.setdefault(request, {}), reqId=request)

    def cancel_summary(self, request: int) -> None:
        """End a summary; its id may be used anew."""
        self.summaries.pop(request, None)
        self._summaries_sent.pop(request, None)

    def send_multi(self, request: int) -> None:
        """Account values for an updatesMulti request, those that it has not been sent yet as they are now."""
        gateway = self._session.gateway
        values = ledger_values(gateway) if self.multi[request] else account_values(gateway)
        self._send_new(out.ACCOUNT_UPDATE_MULTI, values, self._multi_sent.setdefault(request, {}), reqId=request)

    def cancel_multi(self, request: int) -> None:
        """End an updatesMulti request; its id may be used anew."""
        self.multi.pop(request, None)
        self._multi_sent.pop(request, None)

    def send_pnl(self) -> None:
        """The day's profit of the account or of positions, to each request whose figures have changed."""
        self._pnl_from = time.monotonic() + _PNL_SECONDS
        for request, con_id in self.pnl.items():
            message, values = self._pnl(con_id)
            if self._pnl_sent.get(request) != values:
                self._pnl_sent[request] = values
                self._session.send(message, reqId=request, **values)

    def cancel_pnl(self, request: int) -> None:
        """End a profit request; its id may be used anew."""
        self.pnl.pop(request, None)
        self._pnl_sent.pop(request, None)

    def _pnl(self, con_id: int | None) -> tuple[Message, dict[str, Any]]:
        gateway = self._session.gateway
        if con_id is None:
            total = account_pnl(gateway)
            return out.PNL, {
                "dailyPnL": total.daily,
                "unrealizedPnL": total.unrealized,
                "realizedPnL": total.realized,
            }
        single = position_pnl(gateway, con_id)
        return out.PNL_SINGLE, {
            "position": single.quantity,
            "dailyPnL": _known(single.daily),
            "unrealizedPnL": _known(single.unrealized),
            "realizedPnL": _known(single.realized),
            "value": single.value,
        }

    def _send_holding(self, con_id: int) -> None:
        values = holding(self._session.gateway, con_id).wire(self._session.gateway.account)
        if self._holdings_sent.get(con_id) != values:
            self._holdings_sent[con_id] = values
            self._session.send(out.PORTFOLIO_VALUE, **values)

    def _send_values(self) -> None:
        self._send_new(out.ACCOUNT_VALUE, account_values(self._session.gateway), self._account_sent)
        now = self._session.gateway.clock.now().astimezone(EASTERN)
        self._session.send(out.ACCOUNT_TIME, time=f"{now:%H:%M}")

    def _send_new(self, message: Message, values: list[Value], sent: _Sent, **fields: Any) -> None:
        account = self._session.gateway.account
        for key, value, currency in values:
            if sent.get((key, currency)) != value:
                sent[key, currency] = value
                self._session.send(message, account=account, key=key, value=value, currency=currency, **fields)


def _known(amount: Decimal | None) -> Decimal | str:
    return UNSET_DOUBLE if amount is None else amount
