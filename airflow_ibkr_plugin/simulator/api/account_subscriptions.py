"""What a client wants to be told about its accounts: values, positions, profit.

As at IBKR: positions and account values come when a position changes, and every three minutes what has changed since;
an account summary every three minutes only; profit once a second. Nothing is repeated that has not changed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
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

_Sent = dict[tuple[str, str, str], str]


class AccountSubscriptions:
    """A client's subscriptions; request ids are the client's.

    :ivar account: whose updates it gets, None: nobody's. :ivar positions: whether it gets all accounts' positions.
    :ivar summaries: tags by request id. :ivar multi: account, and whether only ledgers are asked for.
    :ivar pnl: account and conId, None for the whole account.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.account: str | None = None
        self.positions = False
        self.summaries: dict[int, frozenset[str]] = {}
        self.multi: dict[int, tuple[str, bool]] = {}
        self.pnl: dict[int, tuple[str, int | None]] = {}
        self._changed: set[int] = set()
        self._values_due = False
        self._values_from = self._pnl_from = 0.0
        self._refreshed = session.gateway.clock.time()
        self._account_sent: _Sent = {}
        self._holdings_sent: dict[int, dict[str, Any]] = {}
        self._positions_sent: dict[tuple[str, int], dict[str, Any]] = {}
        self._summaries_sent: dict[int, _Sent] = defaultdict(dict)
        self._multi_sent: dict[int, _Sent] = defaultdict(dict)
        self._pnl_sent: dict[int, dict[str, Any]] = {}

    # --- what happens ----------------------------------------------------------------------------

    def books_changed(self, con_id: int) -> None:
        """Note that a position and cash have changed."""
        if self.account is not None or self.positions or self.multi:
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
        self._values_due |= bool(changed)
        if self.positions:
            self._send_positions(changed)
        if self.account is not None:
            self._send_holdings(changed)

    def _send_changed_values(self) -> None:
        now = self._session.gateway.clock.time()
        refresh = abs(now - self._refreshed) >= REFRESH_SECONDS
        if refresh:
            self._refreshed = now
            for request in self.summaries:
                self.send_summary(request)
            if self.account is not None:
                self._send_holdings(self._held(self.account))
        if refresh or self._values_due:
            self._values_due = False
            self._values_from = time.monotonic() + _VALUES_SECONDS
            if self.account is not None:
                self._send_values()
            for request in self.multi:
                self.send_multi(request)

    # --- requests ----------------------------------------------------------------------------------

    def send_account(self, account: str) -> None:
        """Subscribe to an account, to no other one from now on: everything of it, with its end."""
        self.account = account
        self._account_sent.clear()
        self._holdings_sent.clear()
        self._send_values()
        self._send_holdings(self._held(account))
        self._session.send(out.ACCOUNT_DOWNLOAD_END, account=account)

    def send_positions(self) -> None:
        """Subscribe to positions: all that are held, of all accounts."""
        self.positions = True
        self._positions_sent.clear()
        for account in self._session.gateway.accounts:
            self._send_positions(self._held(account), [account])

    def send_summary(self, request: int) -> None:
        """The asked tags of all accounts, those that the request has not been sent yet as they are now."""
        gateway, sent = self._session.gateway, self._summaries_sent[request]
        for account in gateway.accounts:
            values = summary_values(gateway, self.summaries[request], account)
            self._send_new(out.ACCOUNT_SUMMARY, account, values, sent, reqId=request)

    def send_multi(self, request: int) -> None:
        """Account values for an updatesMulti request, those that it has not been sent yet as they are now."""
        gateway, (account, only_ledgers) = self._session.gateway, self.multi[request]
        values = ledger_values(gateway, account) if only_ledgers else account_values(gateway, account)
        self._send_new(out.ACCOUNT_UPDATE_MULTI, account, values, self._multi_sent[request], reqId=request)

    def cancel_summary(self, request: int) -> None:
        """End an account summary; its id may be used anew."""
        self.summaries.pop(request, None)
        self._summaries_sent.pop(request, None)

    def cancel_multi(self, request: int) -> None:
        """End an updatesMulti request; its id may be used anew."""
        self.multi.pop(request, None)
        self._multi_sent.pop(request, None)

    def cancel_pnl(self, request: int) -> None:
        """End a profit request; its id may be used anew."""
        self.pnl.pop(request, None)
        self._pnl_sent.pop(request, None)

    def send_pnl(self) -> None:
        """The day's profit of the account or of positions, to each request whose figures have changed."""
        self._pnl_from = time.monotonic() + _PNL_SECONDS
        for request, (account, con_id) in self.pnl.items():
            message, values = self._pnl(account, con_id)
            if self._pnl_sent.get(request) != values:
                self._pnl_sent[request] = values
                self._session.send(message, reqId=request, **values)

    # --- messages ----------------------------------------------------------------------------------

    def _pnl(self, account: str, con_id: int | None) -> tuple[Message, dict[str, Any]]:
        gateway = self._session.gateway
        if con_id is None:
            total = account_pnl(gateway, account)
            return out.PNL, {
                "dailyPnL": total.daily,
                "unrealizedPnL": total.unrealized,
                "realizedPnL": total.realized,
            }
        single = position_pnl(gateway, con_id, account)
        return out.PNL_SINGLE, {
            "position": single.quantity,
            "dailyPnL": _known(single.daily),
            "unrealizedPnL": _known(single.unrealized),
            "realizedPnL": _known(single.realized),
            "value": single.value,
        }

    def _held(self, account: str) -> list[int]:
        positions = self._session.gateway.portfolio_of(account).positions
        return [con_id for con_id, position in positions.items() if position.quantity]

    def _send_positions(self, con_ids: Iterable[int], accounts: Iterable[str] | None = None) -> None:
        gateway = self._session.gateway
        for con_id in con_ids:
            for account in accounts or gateway.accounts:
                held = holding(gateway, con_id, account)
                values = {"position": held.quantity, "avgCost": held.average_cost}
                before = self._positions_sent.get((account, con_id))
                if values != before and (held.quantity or before):
                    self._positions_sent[account, con_id] = values
                    exchange = {"exchange": "IDEALPRO" if held.instrument.is_forex else ""}
                    self._session.send(out.POSITION, account=account, **held.instrument.wire() | exchange, **values)

    def _send_holdings(self, con_ids: Iterable[int]) -> None:
        gateway, account = self._session.gateway, self.account or ""
        for con_id in con_ids:
            held, before = holding(gateway, con_id, account), self._holdings_sent.get(con_id)
            values = held.wire(account)
            if values != before and (held.quantity or before):
                self._holdings_sent[con_id] = values
                self._session.send(out.PORTFOLIO_VALUE, **values)

    def _send_values(self) -> None:
        account = self.account or ""
        self._send_new(out.ACCOUNT_VALUE, account, account_values(self._session.gateway, account), self._account_sent)
        now = self._session.gateway.clock.now().astimezone(EASTERN)
        self._session.send(out.ACCOUNT_TIME, time=f"{now:%H:%M}")

    def _send_new(self, message: Message, account: str, values: list[Value], sent: _Sent, **fields: Any) -> None:
        for key, value, currency in values:
            if sent.get((account, key, currency)) != value:
                sent[account, key, currency] = value
                self._session.send(message, account=account, key=key, value=value, currency=currency, **fields)


def _known(amount: Decimal | None) -> Decimal | str:
    return UNSET_DOUBLE if amount is None else amount
