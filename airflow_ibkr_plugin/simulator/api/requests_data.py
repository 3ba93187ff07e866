"""Requests for time, contracts, quotes and history."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.market import history
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import EASTERN, hours_text, tws_time
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, invalid
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session

_HMDS = "Historical Market Data Service error message:"


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


def current_time(session: Session, values: dict[str, Any]) -> None:
    session.send(out.CURRENT_TIME, time=int(session.gateway.clock.time()))


def ids(session: Session, values: dict[str, Any]) -> None:
    assert session.client_id is not None
    session.send(out.NEXT_VALID_ID, orderId=session.gateway.book.next_id(session.client_id))


def managed_accounts(session: Session, values: dict[str, Any]) -> None:
    session.send(out.MANAGED_ACCOUNTS, accounts=session.gateway.account)


def ignored(session: Session, values: dict[str, Any]) -> None:
    """Requests that change nothing here and that IBKR does not answer either."""


def contract_details(session: Session, values: dict[str, Any]) -> None:
    if not (values["conId"] or values["secType"] or values["secId"]):
        raise invalid("Please enter a valid security type")
    found = session.gateway.catalogue.find(values)
    if not found:
        raise Refusal(200, "No security definition has been found for the request")
    now = session.gateway.clock.time()
    for instrument in found:
        exchange = values["exchange"].upper() or instrument.exchange
        session.send(
            out.CONTRACT_DETAILS,
            reqId=values["reqId"],
            **instrument.wire() | {"exchange": exchange},
            marketName=instrument.trading_class,
            minTick=instrument.min_tick,
            orderTypes=instrument.order_types(),
            validExchanges=",".join(instrument.exchanges),
            longName=instrument.long_name,
            primaryExchange=instrument.primary_exchange,
            industry=instrument.industry,
            timeZoneId=instrument.hours.zone_id,
            tradingHours=hours_text(instrument.hours, now, regular=False),
            liquidHours=hours_text(instrument.hours, now, regular=True),
            secIds=[{"tag": "ISIN", "value": instrument.isin}] if instrument.isin else [],
            marketRuleIds=",".join("26" for _ in instrument.exchanges),
            stockType=instrument.stock_type,
        )
    session.send(out.CONTRACT_DETAILS_END, reqId=values["reqId"])


def market_data(session: Session, values: dict[str, Any]) -> None:
    instrument = one_contract(session, values)
    request = values["reqId"]
    session.subscriptions.open_stream(request, instrument)
    if values["snapshot"] or values["regulatorySnapshot"]:
        del session.subscriptions.streams[request]
        session.send(out.TICK_SNAPSHOT_END, reqId=request)


def cancel_market_data(session: Session, values: dict[str, Any]) -> None:
    if session.subscriptions.streams.pop(values["reqId"], None) is None:
        raise Refusal(300, f"Can't find EId with tickerId:{values['reqId']}")


def market_data_type(session: Session, values: dict[str, Any]) -> None:
    if values["type"] not in (1, 2, 3, 4):
        raise invalid(f"Invalid market data type {values['type']}")
    # Live data is always there, so delayed (3) is live, and delayed-frozen (4) is frozen.
    session.subscriptions.market_data_type = 2 if values["type"] in (2, 4) else 1


def historical_data(session: Session, values: dict[str, Any]) -> None:
    gateway = session.gateway
    instrument = one_contract(session, values)
    if values["keepUpToDate"]:
        raise invalid("keepUpToDate is not served by this simulator")
    try:
        query = history.parse_query(values, gateway.clock.time())
        if instrument.is_forex and query.what in ("TRADES", "ADJUSTED_LAST"):
            raise Refusal(162, f"{_HMDS}No historical market data for {instrument.symbol}/CASH@IDEALPRO Last")
    except history.BadRequest as error:
        raise invalid(str(error)) from None
    session.simulator.in_background(
        session,
        lambda: _bars(session, instrument, query),
        lambda made: _send_bars(session, values, instrument, query, made),
        values,
    )


def _bars(session: Session, instrument: Instrument, query: history.Query) -> list[history.Bar] | history.BadRequest:
    try:
        return history.bars(session.gateway.market, instrument, query)
    except history.BadRequest as error:
        return error


def _send_bars(
    session: Session,
    values: dict[str, Any],
    instrument: Instrument,
    query: history.Query,
    made: list[history.Bar] | history.BadRequest,
) -> None:
    if isinstance(made, history.BadRequest):
        raise invalid(str(made))
    if not made:
        raise Refusal(
            162, f"{_HMDS}HMDS query returned no data: {instrument.symbol}@{instrument.exchange} {query.what}"
        )
    session.send(
        out.HISTORICAL_DATA,
        reqId=values["reqId"],
        start=_stamp(made[0].start, instrument),
        end=_stamp(query.end, instrument),
        bars=[
            {
                "date": _bar_date(bar, instrument, values["formatDate"]),
                "open": bar.open,
                "high": bar.high,
                "low": bar.low,
                "close": bar.close,
                "volume": bar.volume,
                "average": bar.average,
                "barCount": bar.count,
            }
            for bar in made
        ],
    )


def _bar_date(bar: history.Bar, instrument: Instrument, style: int) -> str:
    if bar.day is not None:
        return f"{bar.day:%Y%m%d}"
    return str(bar.start) if style == 2 else tws_time(bar.start, instrument.hours.zone, instrument.hours.zone_id)


def _stamp(moment: float, instrument: Instrument) -> str:
    return f"{datetime.fromtimestamp(moment, EASTERN):%Y%m%d %H:%M:%S} US/Eastern"


HANDLERS: dict[str, Handler] = {
    "reqCurrentTime": current_time,
    "reqIds": ids,
    "reqManagedAccounts": managed_accounts,
    "setServerLogLevel": ignored,
    "reqAutoOpenOrders": ignored,
    "reqContractDetails": contract_details,
    "reqMktData": market_data,
    "cancelMktData": cancel_market_data,
    "reqMarketDataType": market_data_type,
    "reqHistoricalData": historical_data,
    # The answer to a history request is complete when it is sent: there is nothing left to cancel.
    "cancelHistoricalData": ignored,
}
