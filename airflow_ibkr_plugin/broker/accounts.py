"""Which account a session trades, and whether it may."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ConfigError, LiveTradingRefused

# Prefixes of IBKR's paper accounts: of a person and of a financial adviser. Any other account counts as live.
PAPER_PREFIXES = ("DU", "DF")


def choose_account(spec: GatewaySpec, managed: Sequence[str]) -> str:
    """The account of the spec, or the only one that the login manages.

    :raises ConfigError: the login does not manage the account, or manages several and the spec names none.
    """
    if spec.account:
        if spec.account not in managed:
            raise ConfigError(
                f"Account {spec.account} of connection {spec.conn_id!r} is not one of {', '.join(managed)}"
                f" that the gateway at {spec.address} manages.",
                remedy="Correct the connection's account, or log the gateway in with the right user.",
            )
        return spec.account
    if len(managed) != 1:
        raise ConfigError(
            f"The gateway at {spec.address} manages several accounts: {', '.join(managed)}.",
            remedy=f"Name one of them as account of connection {spec.conn_id!r}.",
        )
    return managed[0]


def check_money(spec: GatewaySpec, account: str, *, simulated: bool) -> None:
    """Refuse a session whose account is not of the kind that the connection says.

    :raises LiveTradingRefused: a live account on a paper connection, or a live connection to paper or simulated money.
    """
    paper = account.startswith(PAPER_PREFIXES)
    if spec.live and simulated:
        raise LiveTradingRefused(
            f"Connection {spec.conn_id!r} says live, but the gateway at {spec.address} is simulated.",
            remedy="Point the connection to a real gateway, or set its trading mode to paper.",
        )
    if spec.live == paper:
        raise LiveTradingRefused(
            f"Connection {spec.conn_id!r} says {'live' if spec.live else 'paper'}, but {account} is"
            f" {'a paper' if paper else 'a live'} account.",
            remedy="Correct the connection's trading mode, or log the gateway in with the right user.",
        )


def source_of(spec: GatewaySpec, *, simulated: bool) -> str:
    """Where records of a session come from: `simulator:`, `paper:` or `live:` and the connection id."""
    kind = "simulator" if simulated else "live" if spec.live else "paper"
    return f"{kind}:{spec.conn_id}"
