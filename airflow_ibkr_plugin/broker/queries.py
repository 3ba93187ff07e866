"""What can be asked of the broker, except for moving orders. Coroutines over an open gateway."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.broker.convert import contract_of, to_bar, to_instrument, to_position
from airflow_ibkr_plugin.broker.gateway import Gateway
from airflow_ibkr_plugin.broker.journal import Listing, OrderKey, QuoteTicks
from airflow_ibkr_plugin.broker.truth import BrokerTruth, belongs_to
from airflow_ibkr_plugin.errors import AmbiguousContract, BrokerError, BrokerTimeout, NoMarketData, UnknownContract
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.executions import newest
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Position, Quote

# IBKR slows large historical requests down instead of refusing them; ib_insync waits 60 s, six times its usual limit.
_HISTORY_PATIENCE = 6
# A snapshot ends after 11 s when some tick does not come. Source: TWS API, "Market Data: Snapshots".
_SNAPSHOT_SECONDS = 12.0
# Bid and ask come together; a last price that comes at all is right behind them.
_LAST_PRICE_SECONDS = 0.5
# Commission reports follow their executions, perhaps behind the end of the answer.
_COMMISSION_SECONDS = 1.0
_DELAYED_IF_NOT_LIVE = 3  # reqMarketDataType


async def resolve(gateway: Gateway, spec: InstrumentSpec) -> Instrument:
    """The one contract that matches the spec.

    :raises UnknownContract: none does.
    :raises AmbiguousContract: several do; names them and the field of the instrument that tells them apart.
    """
    contract = contract_of(gateway.library, spec)
    found: list[Any] = await gateway.ask(
        "", lambda number: gateway.client.reqContractDetails(number, contract), about=f"contract {spec.name}"
    )
    by_id = {details.contract.conId: details for details in found}
    if not by_id:
        raise UnknownContract(
            f"IBKR knows no contract {spec.key}.",
            remedy="Check symbol, sec_type, exchange and currency of the instrument.",
        )
    if len(by_id) > 1:
        raise _ambiguous(spec, list(by_id.values()))
    return to_instrument(found[0], spec)


def _ambiguous(spec: InstrumentSpec, found: Sequence[Any]) -> AmbiguousContract:
    candidates = "; ".join(
        f"conId {c.conId} {c.symbol} {c.primaryExchange} {c.currency} ({details.longName})"
        for details in found
        for c in (details.contract,)
    )
    fields = {
        "primary_exchange": {d.contract.primaryExchange for d in found},
        "currency": {d.contract.currency for d in found},
    }
    telling = [f"{name} ({' or '.join(sorted(values))})" for name, values in fields.items() if len(values) > 1]
    return AmbiguousContract(
        f"{spec.name} matches {len(found)} contracts: {candidates}.",
        remedy=f"Add {' and '.join(telling) or 'a narrower exchange'} to the instrument in the workflow.",
    )


async def history(
    gateway: Gateway,
    instrument: Instrument,
    *,
    bar_size: str,
    duration: str,
    end: datetime | None,
    what: str,
    use_rth: bool,
) -> list[Bar]:
    """Historical bars, oldest first.

    :param bar_size, duration, what: in IBKR's words: `1 day`, `1 Y`, `TRADES`.
    :param end: aware; None for now.
    :raises NoMarketData: there are none. :raises PacingViolation: IBKR's limit for historical data was reached.
    """
    about = f"{duration} of {bar_size} {what} bars of {instrument.name}"
    contract = contract_of(gateway.library, instrument)
    until = end.astimezone(UTC).strftime("%Y%m%d %H:%M:%S UTC") if end else ""
    requested = 0

    def send(number: int) -> None:
        nonlocal requested
        requested = number
        # 2: times of intraday bars come as seconds since 1970, UTC.
        gateway.client.reqHistoricalData(number, contract, until, duration, bar_size, what, use_rth, 2, False, [])

    try:
        found: list[Any] = await gateway.ask("", send, about=about, seconds=_HISTORY_PATIENCE * gateway.spec.timeout)
    except BrokerTimeout:
        gateway.check_connected()
        gateway.client.cancelHistoricalData(requested)  # else it goes on counting against IBKR's 50 open requests
        raise
    if not found:
        raise NoMarketData(f"IBKR has no {about}.", remedy="Check the time asked for and the account's subscriptions.")
    return [to_bar(bar) for bar in found]


async def quote(gateway: Gateway, instrument: Instrument) -> Quote:
    """A snapshot of the market: live where the account is subscribed, else delayed and marked so.

    :raises NoMarketData: no price at all came, or the account may not see any.
    """
    client, contract, about = gateway.client, contract_of(gateway.library, instrument), f"quote of {instrument.name}"
    ticks = QuoteTicks()

    def send(number: int) -> None:
        gateway.journal.quotes = {number: ticks}
        client.reqMarketDataType(_DELAYED_IF_NOT_LIVE)
        client.reqMktData(number, contract, "", True, False, [])

    patience = max(gateway.spec.timeout, _SNAPSHOT_SECONDS)
    snapshot = asyncio.ensure_future(gateway.ask("", send, about=about, seconds=patience))
    try:
        while not snapshot.done() and not {"bid", "ask"} <= ticks.prices.keys():
            await gateway.journal.message(patience, unless=snapshot)
        await asyncio.wait({snapshot}, timeout=_LAST_PRICE_SECONDS)
        if snapshot.done():
            snapshot.result()
    finally:
        snapshot.cancel()
        await asyncio.gather(snapshot, return_exceptions=True)
    if not ticks.prices:
        raise NoMarketData(f"{about}: no price came.", remedy="Check the account's market data subscriptions.")
    return Quote(con_id=instrument.con_id, at=await gateway.now(), delayed=ticks.delayed, **ticks.prices)


async def positions(gateway: Gateway) -> list[Position]:
    """What the account holds now, with market values where the broker has sent them."""
    held: list[Any] = await gateway.ask("positions", lambda _: gateway.client.reqPositions(), about="positions")
    valued = gateway.wrapper.portfolio[gateway.account]
    return [
        to_position(raw, valued.get(raw.contract.conId))
        for raw in held
        if raw.account == gateway.account and raw.position
    ]


async def account_snapshot(gateway: Gateway) -> AccountSnapshot:
    """The account's values, as subscribed to since the session was opened, and its positions, asked for now.

    :raises BrokerError: the gateway has not sent the account's worth.
    """
    gateway.check_connected()  # with the connection the client library drops what was sent
    sent = [value for value in gateway.wrapper.accountValues.values() if value.account == gateway.account]
    currency = next((value.currency for value in sent if value.tag == "NetLiquidation"), "")
    values = {value.tag: value.value for value in sent if value.currency in (currency, "BASE", "")}
    missing = {"NetLiquidation", "TotalCashValue", "BuyingPower"} - values.keys()
    if missing:
        raise BrokerError(
            f"The gateway sent no {', '.join(sorted(missing))} of account {gateway.account}.",
            remedy="Check that the gateway's account window shows them; restart the gateway.",
        )
    now, heard = await gateway.now(), gateway.journal.account_heard
    return AccountSnapshot(
        account=gateway.account,
        at=now,
        currency=currency,
        net_liquidation=Decimal(values["NetLiquidation"]),
        cash=Decimal(values["TotalCashValue"]),
        buying_power=Decimal(values["BuyingPower"]),
        positions=tuple(await positions(gateway)),
        values=values,
        simulated=gateway.simulated,
        rates={v.currency: Decimal(v.value) for v in sent if v.tag == "ExchangeRate" and v.currency != "BASE"},
        values_at=None if heard is None else now - timedelta(seconds=time.monotonic() - heard),
    )


async def executions(gateway: Gateway) -> list[Execution]:
    """All executions of the broker's current day in the account, oldest first."""
    with gateway.journal.listing() as listing:
        await _ask_executions(gateway, listing, lambda _: True)
    found = newest(gateway.journal.executions[exec_id] for exec_id in listing.executions)
    return sorted((e for e in found if e.account == gateway.account), key=lambda e: (e.time, e.exec_id))


async def everything(gateway: Gateway) -> BrokerTruth:
    """All that the broker knows of orders and executions, whoever's they are."""
    gateway.journal.news_known = gateway.journal.news  # from before the first question on
    return await listed(gateway, lambda _: True)


async def listen(gateway: Gateway, seconds: float) -> bool:
    """Whether anything was said of an order, a fill or a holding since everything was asked for; returns when it was.

    :raises GatewayUnavailable: the connection is lost. :raises SessionInvalid: the gateway has lost IBKR.
    """
    journal = gateway.journal
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        gateway.check_connected()
        if journal.down is not None:
            raise journal.down
        if journal.news != journal.news_known:
            return True
        if (left := deadline - asyncio.get_running_loop().time()) <= 0:
            return False
        await journal.message(left)


async def find(gateway: Gateway, matches: Callable[[BrokerOrder | Execution], bool]) -> BrokerTruth:
    """What matches of all that the broker lists; where that is nothing, of what this session has heard besides.

    An order whose report came before its list was asked for, or after the list's end, is not absent.

    :raises BrokerError: see :func:`listed`.
    """
    truth, journal = await listed(gateway, matches), gateway.journal
    return truth if truth.known else select(journal.orders.values(), journal.executions.values(), matches)


async def listed(gateway: Gateway, matches: Callable[[BrokerOrder | Execution], bool]) -> BrokerTruth:
    """Ask for all open orders, all completed orders and all executions; return what matches.

    :raises BrokerError: any of the three could not be asked. What it knows then counts for nothing.
    :raises SessionInvalid: nothing matches, and the gateway has no session with IBKR: it cannot know.
    """
    client, journal = gateway.client, gateway.journal
    with journal.listing() as listing:
        await gateway.ask("openOrders", lambda _: client.reqAllOpenOrders(), about="open orders")
        await gateway.ask("completedOrders", lambda _: client.reqCompletedOrders(False), about="completed orders")
        await _ask_executions(gateway, listing, matches)
    orders = (order for key in listing.orders if (order := journal.orders.get(key)))
    truth = select(orders, (journal.executions[exec_id] for exec_id in listing.executions), matches)
    if not truth.known and journal.down is not None:
        raise journal.down
    return truth


async def _ask_executions(
    gateway: Gateway, listing: Listing, matches: Callable[[BrokerOrder | Execution], bool]
) -> None:
    everything, journal = gateway.library.ExecutionFilter(), gateway.journal
    await gateway.ask("", lambda number: gateway.client.reqExecutions(number, everything), about="executions")
    deadline = asyncio.get_running_loop().time() + _COMMISSION_SECONDS
    while (left := deadline - asyncio.get_running_loop().time()) > 0 and any(
        matches(execution) and execution.commission is None
        for execution in (journal.executions[exec_id] for exec_id in listing.executions)
    ):
        await journal.message(left)


def select(
    orders: Iterable[BrokerOrder],
    executions: Iterable[Execution],
    matches: Callable[[BrokerOrder | Execution], bool],
) -> BrokerTruth:
    """What of them matches, and the fills of what matches. What an order's report lacks is taken from its executions:
    ids and price of a completed one, and the end of one whose last status has not come yet.
    """
    found = sorted(filter(matches, orders), key=lambda order: order.perm_id)
    executions = newest(executions)
    groups: defaultdict[OrderKey, dict[str, Execution]] = defaultdict(dict)
    fills: dict[str, Execution] = {}
    for fill in executions:
        groups[fill.perm_id][fill.exec_id] = groups[fill.client_id, fill.order_id][fill.exec_id] = fill
        if matches(fill):
            fills[fill.exec_id] = fill
    completed = []
    for order in found:
        near = groups[order.perm_id] | groups[order.client_id, order.order_id]
        own = {exec_id: fill for exec_id, fill in near.items() if belongs_to(fill, order)}
        completed.append(_completed(order, list(own.values())))
        fills |= own
    return BrokerTruth(
        orders=tuple(completed),
        executions=tuple(sorted(fills.values(), key=lambda fill: (fill.time, fill.exec_id))),
        asked_at=datetime.now(UTC),
    )


def _completed(order: BrokerOrder, own: Sequence[Execution]) -> BrokerOrder:
    if not own:
        return order
    filled = sum((fill.quantity for fill in own), Decimal(0))
    if not order.order_id:
        order = replace(order, order_id=own[0].order_id, client_id=own[0].client_id)
    if filled >= order.quantity and order.status != "Filled":
        order = replace(order, status="Filled", filled=filled, remaining=Decimal(0), average_price=None)
    if order.average_price is None:
        order = replace(order, average_price=sum((f.price * f.quantity for f in own), Decimal(0)) / filled)
    return order
