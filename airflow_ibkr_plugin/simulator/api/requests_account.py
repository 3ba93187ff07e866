"""Requests about the account, its positions and its profit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.orders.checks import invalid
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session


def account_updates(session: Session, values: dict[str, Any]) -> None:
    _check_account(session, values["account"])
    session.account_subscriptions.account = values["subscribe"]
    if values["subscribe"]:
        session.account_subscriptions.send_account()


def account_updates_multi(session: Session, values: dict[str, Any]) -> None:
    _check_account(session, values["account"])
    session.account_subscriptions.multi.add(values["reqId"])
    session.account_subscriptions.send_multi(values["reqId"])
    session.send(out.ACCOUNT_UPDATE_MULTI_END, reqId=values["reqId"])


def cancel_account_updates_multi(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.multi.discard(values["reqId"])


def account_summary(session: Session, values: dict[str, Any]) -> None:
    tags = frozenset(tag.strip() for tag in values["tags"].split(",") if tag.strip())
    if not tags:
        raise invalid("No account summary tags were given")
    session.account_subscriptions.summaries[values["reqId"]] = tags
    session.account_subscriptions.send_summary(values["reqId"], tags)
    session.send(out.ACCOUNT_SUMMARY_END, reqId=values["reqId"])


def cancel_account_summary(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.summaries.pop(values["reqId"], None)


def positions(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.positions = True
    for con_id, position in session.gateway.portfolio.positions.items():
        if position.quantity:
            session.account_subscriptions.send_position(con_id)
    session.send(out.POSITION_END)


def cancel_positions(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.positions = False


def pnl(session: Session, values: dict[str, Any]) -> None:
    _check_account(session, values["account"])
    session.account_subscriptions.pnl[values["reqId"]] = None
    session.account_subscriptions.send_pnl(values["reqId"], None)


def pnl_single(session: Session, values: dict[str, Any]) -> None:
    _check_account(session, values["account"])
    if session.gateway.catalogue.get(values["conId"] or 0) is None:
        raise invalid(f"No contract has the conId {values['conId']}")
    session.account_subscriptions.pnl[values["reqId"]] = values["conId"]
    session.account_subscriptions.send_pnl(values["reqId"], values["conId"])


def cancel_pnl(session: Session, values: dict[str, Any]) -> None:
    session.account_subscriptions.pnl.pop(values["reqId"], None)


def _check_account(session: Session, account: str) -> None:
    if account not in ("", session.gateway.account):
        raise invalid(f"Invalid account code {account!r}")


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
