"""Requests for historical bars, schedules, ticks, and where history begins."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.api.bar_feeds import KeptBars, bar_fields, told_zone
from airflow_ibkr_plugin.simulator.api.requests_contracts import quoted_contract
from airflow_ibkr_plugin.simulator.market import history, ticks
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.history_query import (
    NO_ZONE,
    SCHEDULE,
    SERVED,
    TRADED,
    BadRequest,
    Query,
    duration_start,
    lacks_zone,
    parse_moment,
    parse_query,
    stamp,
)
from airflow_ibkr_plugin.simulator.market.pacing import OPEN_AT_ONCE, SMALL
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, invalid
from airflow_ibkr_plugin.simulator.wire import tables_data as data
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session

_HMDS = "Historical Market Data Service error message:"
_TOO_FAST = f"{_HMDS}Historical data request pacing violation"
_TICKS = {ticks.TRADES, ticks.BID_ASK, ticks.MIDPOINT}


def hmds(why: str) -> Refusal:
    """IBKR's data service says no."""
    return Refusal(162, f"{_HMDS}{why}")


def historical_data(session: Session, values: dict[str, Any]) -> None:
    instrument, request = quoted_contract(session, values), values["reqId"]
    try:
        query = parse_query(values, session.gateway.clock.time(), session.version)
    except BadRequest as error:
        raise _refused(error) from None
    if request in session.subscriptions.queries or request in session.subscriptions.kept:
        raise Refusal(322, "Error processing request.-'bM' : cause - Duplicate ticker ID for API historical data query")
    _check_available(session, instrument, query.what, query.bar_size)
    _check_pace(session, instrument, query, values["endDateTime"])
    if lacks_zone(values["endDateTime"]):
        session.error(request, *NO_ZONE)
    if query.what == SCHEDULE:
        _send_schedule(session, request, instrument, query)
        return
    # What the answer is for; a cancelled request is no longer it.
    mark = session.subscriptions.queries[request] = object()
    session.simulator.in_background(
        session,
        lambda: _bars(session, instrument, query),
        lambda made: _send_bars(session, values, instrument, query, mark, made),
        values,
    )


def _check_available(session: Session, instrument: Instrument, what: str, detail: str) -> None:
    if (missing := session.gateway.access.missing_permission(instrument)) is not None:
        raise hmds(missing)
    if what not in SERVED or (instrument.is_forex and what in TRADED):
        where = "FXSUBPIP" if instrument.is_forex else instrument.exchange
        label = "Last" if what in TRADED else what.capitalize()
        raise hmds(f"No historical market data for {instrument.symbol}/{instrument.sec_type}@{where} {label} {detail}")


def _check_pace(session: Session, instrument: Instrument, query: Query, end: str) -> None:
    access = session.gateway.access
    if access.history.on and access.open_history() >= OPEN_AT_ONCE:
        access.history.refused += 1
        raise Refusal(162, _TOO_FAST)
    if query.seconds is not None and query.seconds <= SMALL:
        take_pace(session, instrument, query.what, (query.bar_size, query.duration, end, query.regular, query.style))


def take_pace(session: Session, instrument: Instrument, what: str, rest: Hashable) -> None:
    """Count a request for small bars or ticks.

    :raises Refusal: 162: it comes too soon.
    """
    series = (instrument.con_id, instrument.exchange, what)
    if not session.gateway.access.history.take(series, (series, rest), 2 if what == "BID_ASK" else 1):
        raise Refusal(162, _TOO_FAST)


def _bars(session: Session, instrument: Instrument, query: Query) -> list[history.Bar] | BadRequest:
    try:
        return history.bars(session.gateway.market, instrument, query)
    except BadRequest as error:
        return error


def _refused(error: BadRequest) -> Refusal:
    match error.code:
        case 321:
            return invalid(str(error))
        case 162:
            return hmds(str(error))
        case _:
            return Refusal(error.code, str(error))


def _send_bars(
    session: Session,
    values: dict[str, Any],
    instrument: Instrument,
    query: Query,
    mark: object,
    made: list[history.Bar] | BadRequest,
) -> None:
    request, waiting = values["reqId"], session.subscriptions.queries
    if waiting.get(request) is not mark:
        return
    del waiting[request]
    if isinstance(made, BadRequest):
        raise _refused(made)
    if not made:
        raise hmds(f"HMDS query returned no data: {instrument.symbol}@{instrument.exchange} {query.what.capitalize()}")
    zone = told_zone(instrument, session.version)
    session.send(
        out.HISTORICAL_DATA,
        reqId=request,
        start=stamp(duration_start(query.told_end, query.duration, instrument.hours.zone), 1, *zone),
        end=stamp(query.told_end, 1, *zone),
        bars=[bar_fields(bar, instrument, query.style, session.version) for bar in made],
    )
    if values["keepUpToDate"]:
        session.subscriptions.kept[request] = KeptBars(session, request, instrument, query, made[-1])


def _send_schedule(session: Session, request: int, instrument: Instrument, query: Query) -> None:
    zone = instrument.hours.zone
    found = history.sessions(instrument, query)
    if not found:
        raise hmds(f"HMDS query returned no data: {instrument.symbol}@{instrument.exchange} {SCHEDULE.capitalize()}")

    def text(moment: int) -> str:
        return f"{datetime.fromtimestamp(moment, zone):%Y%m%d-%H:%M:%S}"

    spans = [(one.day, *one.bounds(query.regular)) for one in found]
    session.send(
        data.HISTORICAL_SCHEDULE,
        reqId=request,
        start=text(spans[0][1]),
        end=text(spans[-1][2]),
        timeZone=instrument.hours.zone_id,
        sessions=[{"start": text(begin), "end": text(end), "refDate": f"{day:%Y%m%d}"} for day, begin, end in spans],
    )


def cancel_historical_data(session: Session, values: dict[str, Any]) -> None:
    request, subscriptions = values["reqId"], session.subscriptions
    if subscriptions.queries.pop(request, None) is None and subscriptions.kept.pop(request, None) is None:
        raise Refusal(366, f"No historical data query found for ticker id:{request}")
    raise hmds(f"API historical data query cancelled: {request}")


def head_time_stamp(session: Session, values: dict[str, Any]) -> None:
    instrument, what = quoted_contract(session, values), values["whatToShow"].upper()
    if values["formatDate"] not in (1, 2, 3):
        raise invalid(f"Date formatting selection of {values['formatDate']} rejected.")
    if (missing := session.gateway.access.missing_permission(instrument)) is not None:
        raise hmds(missing)
    if what not in SERVED or (instrument.is_forex and what in TRADED):
        raise hmds("No head time stamp")
    first = instrument.hours.session(instrument.hours.first)
    assert first is not None  # the first session is one
    begin = first.bounds(values["useRTH"])[0]
    # Always UTC, whatever the contract's zone.
    moment = datetime.fromtimestamp(begin, UTC)
    text = {1: f"{moment:%Y%m%d-%H:%M:%S}", 2: str(begin), 3: f"{moment:%m%d %H:%M:%S}"}[values["formatDate"]]
    session.send(data.HEAD_TIMESTAMP, reqId=values["reqId"], headTimestamp=text)


def cancel_head_time_stamp(session: Session, values: dict[str, Any]) -> None:
    """The answer is complete when it is sent: there is nothing left to cancel."""


def historical_ticks(session: Session, values: dict[str, Any]) -> None:
    instrument, what = quoted_contract(session, values), values["whatToShow"].upper()
    gateway, now = session.gateway, session.gateway.clock.time()
    count = values["numberOfTicks"] or 0
    try:
        start = parse_moment(values["startDateTime"], now, "Start")
        end = parse_moment(values["endDateTime"], now, "End")
    except BadRequest as error:
        raise _refused(error) from None
    if (start is None) == (end is None):
        raise invalid("Historical ticks need either a start or an end time, and not both")
    if what not in _TICKS:
        raise invalid(f"What to show value of {values['whatToShow']} rejected.")
    if not 1 <= count <= ticks.MAX_TICKS:
        raise invalid(f"Number of ticks {count} is not between 1 and {ticks.MAX_TICKS}")
    _check_available(session, instrument, what, "1 tick")
    take_pace(session, instrument, what, (start, end, count, values["useRTH"]))
    if lacks_zone(values["startDateTime"] or values["endDateTime"]):
        session.error(values["reqId"], *NO_ZONE)
    made = ticks.historical_ticks(
        gateway.market, instrument, what, start=start, end=end, now=now, count=count, regular=values["useRTH"]
    )
    send_historical_ticks(session, values["reqId"], instrument, what, made, ignore_size=values["ignoreSize"])


def send_historical_ticks(
    session: Session, request: int, instrument: Instrument, what: str, made: list[ticks.Tick], *, ignore_size: bool
) -> None:
    """An answer of ticks, complete in one message."""
    where = instrument.primary_exchange or instrument.exchange
    if what == ticks.TRADES:
        session.send(
            data.HISTORICAL_TICKS_LAST,
            reqId=request,
            ticks=[{"time": one.time, "price": one.price, "size": one.size, "exchange": where} for one in made],
            done=True,
        )
    elif what == ticks.MIDPOINT:
        session.send(
            data.HISTORICAL_TICKS,
            reqId=request,
            ticks=[{"time": one.time, "price": one.price, "size": 0} for one in made],
            done=True,
        )
    else:
        session.send(
            data.HISTORICAL_TICKS_BID_ASK,
            reqId=request,
            ticks=[
                {
                    "time": one.time,
                    "bid": one.bid,
                    "ask": one.ask,
                    "bidSize": 0 if ignore_size else one.bid_size,
                    "askSize": 0 if ignore_size else one.ask_size,
                }
                for one in made
            ],
            done=True,
        )


HANDLERS: dict[str, Handler] = {
    "reqHistoricalData": historical_data,
    "cancelHistoricalData": cancel_historical_data,
    "reqHeadTimeStamp": head_time_stamp,
    "cancelHeadTimeStamp": cancel_head_time_stamp,
    "reqHistoricalTicks": historical_ticks,
}
