"""Requests about the account, its positions and its profit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.orders.checks import Refusal, invalid
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session

#: Account summaries of one client at once. Source: TWS API, "Account Summary".
MAX_SUMMARIES = 2


def account_updates(session: Session, values: dict[str, Any]) -> None:
    account = _account(session, values["account"])
    if values["subscribe"]:
        session.account_subscriptions.send_account(account)
    elif session.account_subscriptions.account == account:
        session.account_subscriptions.account = None


def account_updates_multi(session: Session, values: dict[str, Any]) -> None:
    account = _account(session, values["account"])
    _check_model(values)
    session.account_subscriptions.cancel_multi(values["reqId"])
    session.account_subscriptions.multi[values["reqId"]] = account, values["ledgerAndNLV"]
    session.account_subscriptions.send_multi(values["reqId"])
    session.send(out.ACCOUNT_UPDATE_MULTI_END, reqId=values["reqId"])


def cancel_account_updates_multi(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.cancel_multi(values["reqId"])


def account_summary(session: Session, values: dict[str, Any]) -> None:
    subscriptions, request = session.account_subscriptions, values["reqId"]
    if values["group"].upper() != "ALL":
        raise invalid(f"Group {values['group']!r} is not known")
    tags = frozenset(tag.strip() for tag in values["tags"].split(",") if tag.strip())
    if not tags:
        raise invalid("No account summary tags were given")
    if len(subscriptions.summaries.keys() - {request}) >= MAX_SUMMARIES:
        raise Refusal(
            322,
            "Error processing request.-'b0' : cause - Maximum number of account summary requests exceeded;"
            " desubscribe to previous request first",
        )
    subscriptions.cancel_summary(request)
    subscriptions.summaries[request] = tags
    subscriptions.send_summary(request)
    session.send(out.ACCOUNT_SUMMARY_END, reqId=request)


def cancel_account_summary(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.cancel_summary(values["reqId"])


def positions(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.send_positions()
    session.send(out.POSITION_END)


def cancel_positions(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.positions = False


def pnl(session: Session, values: dict[str, Any]) -> None:
    _subscribe_pnl(session, values, None)


def pnl_single(session: Session, values: dict[str, Any]) -> None:
    if session.gateway.catalogue.get(values["conId"] or 0) is None:
        raise invalid(f"No contract has the conId {values['conId']}")
    _subscribe_pnl(session, values, values["conId"])


def cancel_pnl(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.cancel_pnl(values["reqId"])


def _subscribe_pnl(session: Session, values: dict[str, Any], con_id: int | None) -> None:
    account = _account(session, values["account"])
    _check_model(values)
    session.account_subscriptions.cancel_pnl(values["reqId"])
    session.account_subscriptions.pnl[values["reqId"]] = account, con_id
    session.account_subscriptions.send_pnl()


def _account(session: Session, account: str) -> str:
    """The account that a request names; it may be left out where there is only one."""
    accounts = session.gateway.accounts
    if account not in accounts and (account or len(accounts) > 1):
        raise invalid(f"Invalid account code {account!r}")
    return session.gateway.code(account)


def _check_model(values: dict[str, Any]) -> None:
    if values["modelCode"]:
        raise invalid(f"Model {values['modelCode']!r} is not known")


HANDLERS: dict[str, Handler] = {
    "reqAccountUpdates": account_updates,
    "reqAccountUpdatesMulti": account_updates_multi,
    "cancelAccountUpdatesMulti": cancel_account_updates_multi,
    "reqAccountSummary": account_summary,
    "cancelAccountSummary": cancel_account_summary,
    "reqPositions": positions,
    "cancelPositions": cancel_positions,
    "reqPnL": pnl,
    "cancelPnL": cancel_pnl,
    "reqPnLSingle": pnl_single,
    "cancelPnLSingle": cancel_pnl,
}
