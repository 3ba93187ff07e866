"""Who must agree before money moves: the installation, the connection and the workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.errors import ConfigError, LiveTradingRefused

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.execution.request import OrderRequest


def check_consent(session: BrokerSession, request: OrderRequest) -> None:
    """Let pass what trades where the workflow says it trades.

    :raises LiveTradingRefused: live without all three consents or at a simulated gateway, or paper on a live
        connection.
    :raises ConfigError: the mode is unknown, or the session is not the one that the request was made for.
    """
    check_where(session, request)
    where = f"connection {session.spec.conn_id!r}"
    if request.mode == "paper":
        if session.spec.live:
            raise LiveTradingRefused(
                f"The workflow says paper, {where} says live.",
                remedy="Use a paper connection, or say `mode: live` in the workflow.",
            )
        return
    if request.mode != "live":
        raise ConfigError(f"mode is {request.mode!r}.", remedy="Write paper or live.")
    if session.simulated:
        raise LiveTradingRefused(
            f"The workflow says live, and {where} is a simulated gateway.",
            remedy="Name a connection to a real gateway, or say `mode: paper`.",
        )
    if not session.spec.live:
        raise LiveTradingRefused(
            f"The workflow says live, {where} says paper.", remedy="Use a live connection, or say `mode: paper`."
        )
    if not settings.load().allow_live:
        raise LiveTradingRefused(
            "This installation does not allow live trading.", remedy="Set [ibkr] allow_live = True to consent."
        )


def check_where(session: BrokerSession, request: OrderRequest) -> None:
    """:raises ConfigError: the session is not the one that the request was made for."""
    if (request.source, request.account) != (session.source, session.account):
        raise ConfigError(
            f"The order is for {request.account} at {request.source}, the session is {session.account} at"
            f" {session.source}.",
            remedy="Do not change a connection while a run uses it; start a new run.",
        )
