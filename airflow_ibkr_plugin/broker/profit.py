"""The account's profit of the day, as the broker reckons it."""

from __future__ import annotations

from decimal import Decimal

from airflow_ibkr_plugin.broker.gateway import Gateway


async def daily_pnl(gateway: Gateway) -> Decimal:
    """Realised and unrealised profit of the account since the day began, in its base currency; < 0 for a loss.

    The day is IBKR's: it begins at the time that is set for it in TWS or IB Gateway. Transfers are no profit.

    :raises BrokerTimeout: the broker told none.
    """
    asked: list[int] = []

    def send(number: int) -> None:
        asked.append(number)
        gateway.client.reqPnL(number, gateway.account, "")

    try:
        profit: Decimal = await gateway.ask("", send, about=f"daily profit of account {gateway.account}")
    finally:
        if asked and gateway.client.isReady():
            gateway.client.cancelPnL(asked[0])  # else it goes on coming, once a second
    return profit
