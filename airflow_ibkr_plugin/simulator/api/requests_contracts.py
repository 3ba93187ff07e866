"""Requests for time, ids, contracts, and what is fixed about exchanges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.market.catalogue import ORDER_TYPES, Instrument
from airflow_ibkr_plugin.simulator.market.hours import hours_text
from airflow_ibkr_plugin.simulator.market.rules import (
    BBO_EXCHANGE,
    DEPTH_EXCHANGES,
    SMART_COMPONENTS,
    increments,
    market_rule,
)
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, invalid
from airflow_ibkr_plugin.simulator.wire import tables_data as data
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session

# Source: TWS API, "Stock Contract Search".
_MOST_SAMPLES = 16


def one_contract(session: Session, values: dict[str, Any]) -> Instrument:
    """The one contract that a request's fields mean.

    :raises Refusal: 200 if none matches, or more than one does.
    """
    found = session.gateway.catalogue.find(values)
    if not found:
        raise Refusal(200, "No security definition has been found for the request")
    if len(found) > 1:
        raise Refusal(200, f"The contract description specified for {values['symbol']} is ambiguous.")
    return found[0]


def quoted_contract(session: Session, values: dict[str, Any]) -> Instrument:
    """The one contract whose data a request wants: it has to name where.

    :raises Refusal: 321 without an exchange or a security type; as :func:`one_contract`.
    """
    if not values["conId"] and not values["secType"]:
        raise invalid("Please enter a valid security type")
    if not values["exchange"]:
        raise invalid("Please enter exchange")
    return one_contract(session, values)


def current_time(session: Session, values: dict[str, Any]) -> None:
    session.send(out.CURRENT_TIME, time=int(session.gateway.clock.time()))


def ids(session: Session, values: dict[str, Any]) -> None:
    assert session.client_id is not None
    session.send(out.NEXT_VALID_ID, orderId=session.gateway.book.next_id(session.client_id))


def managed_accounts(session: Session, values: dict[str, Any]) -> None:
    session.send(out.MANAGED_ACCOUNTS, accounts=",".join(session.gateway.accounts))


def ignored(session: Session, values: dict[str, Any]) -> None:
    """Requests that change nothing here and that IBKR does not answer either."""


def contract_details(session: Session, values: dict[str, Any]) -> None:
    if not (values["conId"] or values["secType"] or values["secId"]):
        raise invalid("Please enter a valid security type")
    found = session.gateway.catalogue.find(values)
    if not found:
        raise Refusal(200, "No security definition has been found for the request")
    for instrument in found:
        fields = details(instrument, session.gateway.clock.time(), values["exchange"].upper())
        session.send(out.CONTRACT_DETAILS, reqId=values["reqId"], **fields)
    session.send(out.CONTRACT_DETAILS_END, reqId=values["reqId"])


def details(instrument: Instrument, now: float, exchange: str = "") -> dict[str, Any]:
    """Fields of a contractDetails message, without its request id.

    :param exchange: the one that was asked for; empty: the usual one.
    """
    rule = str(market_rule(instrument.min_tick))
    return instrument.wire() | {
        "exchange": exchange or instrument.exchange,
        "marketName": instrument.trading_class,
        "minTick": instrument.min_tick,
        "orderTypes": ORDER_TYPES,
        "validExchanges": ",".join(instrument.exchanges),
        "longName": instrument.long_name,
        "primaryExchange": instrument.primary_exchange,
        "industry": instrument.industry,
        "timeZoneId": instrument.hours.zone_id,
        "tradingHours": hours_text(instrument.hours, now, regular=False),
        "liquidHours": hours_text(instrument.hours, now, regular=True),
        "secIds": [{"tag": "ISIN", "value": instrument.isin}] if instrument.isin else [],
        # One for each exchange, in their order.
        "marketRuleIds": ",".join(rule for _ in instrument.exchanges),
        "aggGroup": 4 if instrument.is_forex else 1,
        "stockType": instrument.stock_type,
    }


def matching_symbols(session: Session, values: dict[str, Any]) -> None:
    found = session.gateway.catalogue.matching(values["pattern"])[:_MOST_SAMPLES]
    samples = [
        {
            "conId": item.con_id,
            "symbol": item.symbol,
            "secType": item.sec_type,
            "primaryExchange": item.primary_exchange or item.exchange,
            "currency": item.currency,
            "description": item.long_name,
        }
        for item in found
    ]
    session.send(data.SYMBOL_SAMPLES, reqId=values["reqId"], contracts=samples)


def market_rules(session: Session, values: dict[str, Any]) -> None:
    steps = increments(values["marketRuleId"])
    if steps is None:
        raise invalid(f"Invalid market rule id {values['marketRuleId']}")
    session.send(
        data.MARKET_RULE,
        marketRuleId=values["marketRuleId"],
        increments=[{"lowEdge": edge, "increment": step} for edge, step in steps],
    )


def smart_components(session: Session, values: dict[str, Any]) -> None:
    known = SMART_COMPONENTS if values["bboExchange"] == BBO_EXCHANGE else ()
    session.send(data.SMART_COMPONENTS, reqId=values["reqId"], components=known)


def depth_exchanges(session: Session, values: dict[str, Any]) -> None:
    session.send(data.MKT_DEPTH_EXCHANGES, exchanges=DEPTH_EXCHANGES)


HANDLERS: dict[str, Handler] = {
    "reqCurrentTime": current_time,
    "reqIds": ids,
    "reqManagedAccounts": managed_accounts,
    "setServerLogLevel": ignored,
    "reqContractDetails": contract_details,
    "reqMatchingSymbols": matching_symbols,
    "reqMarketRule": market_rules,
    "reqSmartComponents": smart_components,
    "reqMktDepthExchanges": depth_exchanges,
}
