"""Requests for quotes, real-time bars and tick-by-tick data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.api.bar_feeds import RealTimeBars
from airflow_ibkr_plugin.simulator.api.quote_stream import QuoteStream
from airflow_ibkr_plugin.simulator.api.requests_contracts import quoted_contract
from airflow_ibkr_plugin.simulator.api.requests_history import send_historical_ticks, take_pace
from airflow_ibkr_plugin.simulator.api.subscriptions import DELAYED, DELAYED_FROZEN, FROZEN, LIVE
from airflow_ibkr_plugin.simulator.api.tick_feeds import KINDS, TickByTick
from airflow_ibkr_plugin.simulator.market.access import LINES, TICK_BY_TICK
from airflow_ibkr_plugin.simulator.market.generic_ticks import is_generic_only, legal_ones, parse_generic
from airflow_ibkr_plugin.simulator.market.ticks import MAX_TICKS, TRADES, historical_ticks
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, invalid
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session
    from airflow_ibkr_plugin.simulator.market.catalogue import Instrument

_BARS_OF = ("TRADES", "MIDPOINT", "BID", "ASK")


def market_data(session: Session, values: dict[str, Any]) -> None:
    instrument = quoted_contract(session, values)
    request, subscriptions, paid = values["reqId"], session.subscriptions, values["regulatorySnapshot"]
    generic = _generic_ticks(values, instrument)
    if request in subscriptions.streams:
        raise Refusal(322, "Error processing request.-'bQ' : cause - Duplicate ticker id")
    # A regulatory snapshot is paid for by itself and needs no subscription.
    if not paid:
        _check_access(session, request, instrument)
    kind, only_generic = subscriptions.market_data_type, is_generic_only(values["genericTicks"])
    stream = QuoteStream(session, request, instrument, kind, generic, only_generic=only_generic, paid=paid)
    if values["snapshot"] or paid:
        stream.open()
        session.send(out.TICK_SNAPSHOT_END, reqId=request)
        return
    if session.gateway.access.lines() >= LINES:
        raise Refusal(101, "Max number of tickers has been reached.")
    subscriptions.streams[request] = stream
    stream.open()


def _generic_ticks(values: dict[str, Any], instrument: Instrument) -> frozenset[int]:
    asked, kind = values["genericTicks"], instrument.sec_type
    generic = parse_generic(asked, kind)
    if generic is None:
        raise invalid(f"Incorrect generic tick list of {asked}.  Legal ones for ({kind}) are: {legal_ones(kind)}")
    if values["snapshot"] and generic:
        raise invalid("Snapshot market data subscription is not applicable to generic ticks")
    return generic


def _check_access(session: Session, request: int, instrument: Instrument) -> None:
    access = session.gateway.access
    delayed = session.subscriptions.market_data_type in (DELAYED, DELAYED_FROZEN)
    if (refusal := access.refusal(instrument, delayed=delayed)) is not None:
        raise Refusal(*refusal)
    if (notice := access.notice(instrument, delayed=delayed)) is not None:
        session.error(request, *notice)


def cancel_market_data(session: Session, values: dict[str, Any]) -> None:
    _cancel(session.subscriptions.streams, values["reqId"])


def _cancel(subscribed: dict[int, Any], request: int) -> None:
    if subscribed.pop(request, None) is None:
        raise Refusal(300, f"Can't find EId with tickerId:{request}")


def market_data_type(session: Session, values: dict[str, Any]) -> None:
    if values["type"] not in (LIVE, FROZEN, DELAYED, DELAYED_FROZEN):
        raise invalid(f"Invalid market data type {values['type']}")
    session.subscriptions.market_data_type = values["type"]


def real_time_bars(session: Session, values: dict[str, Any]) -> None:
    instrument, what = quoted_contract(session, values), values["whatToShow"].upper()
    request, access = values["reqId"], session.gateway.access
    if what not in _BARS_OF:
        raise invalid(f"What to show value of {values['whatToShow']} rejected.")
    if request in session.subscriptions.real_time_bars:
        raise Refusal(322, "Error processing request.-'bT' : cause - Duplicate ticker id")
    if (missing := access.missing_permission(instrument)) is not None:
        raise _invalid_real_time(missing)
    if instrument.is_forex and what == TRADES:
        raise _invalid_real_time(f"No historical market data for {instrument.symbol}/CASH@FXSUBPIP Last 5 secs")
    series = (instrument.con_id, instrument.exchange, what)
    if not access.real_time_bars.take(series, (series, values["useRTH"])):
        raise _invalid_real_time("Historical data request pacing violation")
    # There is one bar size; what else is asked for is ignored, as at IBKR.
    bars = RealTimeBars(session, request, instrument, what, regular=values["useRTH"])
    session.subscriptions.real_time_bars[request] = bars


def _invalid_real_time(why: str) -> Refusal:
    return Refusal(420, f"Invalid Real-time Query:{why}")


def cancel_real_time_bars(session: Session, values: dict[str, Any]) -> None:
    _cancel(session.subscriptions.real_time_bars, values["reqId"])


def tick_by_tick(session: Session, values: dict[str, Any]) -> None:
    instrument = quoted_contract(session, values)
    request, kind, access = values["reqId"], values["tickType"], session.gateway.access
    if kind not in KINDS:
        raise invalid(f"Invalid tick-by-tick type {kind}")
    if request in session.subscriptions.ticks:
        raise Refusal(322, "Error processing request.-'cj' : cause - Duplicate ticker id")
    if (missing := access.missing_permission(instrument)) is not None:
        raise Refusal(10189, f"Failed to request tick-by-tick data.{missing}")
    if instrument.is_forex and KINDS[kind] == TRADES:
        raise Refusal(10189, f"Failed to request tick-by-tick data.No trades of {instrument.symbol}/CASH@IDEALPRO")
    if access.tick_streams() >= TICK_BY_TICK:
        raise Refusal(10190, "Max number of tick-by-tick requests has been reached.")
    feed = TickByTick(session, request, instrument, kind, ignore_size=values["ignoreSize"])
    if values["numberOfTicks"]:
        _send_earlier(session, instrument, values)
    session.subscriptions.ticks[request] = feed


def _send_earlier(session: Session, instrument: Instrument, values: dict[str, Any]) -> None:
    """Ticks of before the subscription, which count as a request for historical ones."""
    what, now = KINDS[values["tickType"]], session.gateway.clock.time()
    count = min(values["numberOfTicks"], MAX_TICKS)
    take_pace(session, instrument, what, ("tick by tick", values["reqId"], count))
    made = historical_ticks(
        session.gateway.market, instrument, what, start=None, end=int(now), now=now, count=count, regular=False
    )
    send_historical_ticks(session, values["reqId"], instrument, what, made, ignore_size=values["ignoreSize"])


def cancel_tick_by_tick(session: Session, values: dict[str, Any]) -> None:
    _cancel(session.subscriptions.ticks, values["reqId"])


HANDLERS: dict[str, Handler] = {
    "reqMktData": market_data,
    "cancelMktData": cancel_market_data,
    "reqMarketDataType": market_data_type,
    "reqRealTimeBars": real_time_bars,
    "cancelRealTimeBars": cancel_real_time_bars,
    "reqTickByTickData": tick_by_tick,
    "cancelTickByTickData": cancel_tick_by_tick,
}
