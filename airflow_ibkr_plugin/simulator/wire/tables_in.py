"""Client to server messages, except placeOrder (see `tables_orders`).

Source: the encoders of ib_insync 0.9.86, ib_async 2.1.0 and IBKR's own client.
"""

from __future__ import annotations

from airflow_ibkr_plugin.simulator.wire.fields import Message, Repeat, When, equals, fields, given, table
from airflow_ibkr_plugin.simulator.wire.tables_data import CONTRACT12, DATA_REQUESTS
from airflow_ibkr_plugin.simulator.wire.tables_orders import PLACE_ORDER

REQUEST_LEGS = When(equals("secType", "BAG"), (Repeat("legs", fields("conId:int ratio:int action exchange")),))
DELTA_NEUTRAL = (
    "deltaNeutral:bool",
    When(given("deltaNeutral"), fields("dncConId:int dncDelta:float dncPrice:float")),
)

START_API = table(71, "startApi", "version:int clientId:int optionalCapabilities")

_REQUESTS = (
    START_API,
    PLACE_ORDER,
    table(
        1,
        "reqMktData",
        "version:int reqId:int",
        CONTRACT12,
        REQUEST_LEGS,
        *DELTA_NEUTRAL,
        "genericTicks snapshot:bool regulatorySnapshot:bool options",
    ),
    table(2, "cancelMktData", "version:int reqId:int"),
    table(4, "cancelOrder", "version:int orderId:int manualCancelTime>=169"),
    table(5, "reqOpenOrders", "version:int"),
    table(6, "reqAccountUpdates", "version:int subscribe:bool account"),
    table(7, "reqExecutions", "version:int reqId:int clientId:int account time symbol secType exchange side"),
    table(8, "reqIds", "version:int count:int"),
    table(
        9,
        "reqContractDetails",
        "version:int reqId:int",
        CONTRACT12,
        "includeExpired:bool secIdType secId issuerId>=176",
    ),
    table(14, "setServerLogLevel", "version:int level:int"),
    table(15, "reqAutoOpenOrders", "version:int autoBind:bool"),
    table(16, "reqAllOpenOrders", "version:int"),
    table(17, "reqManagedAccounts", "version:int"),
    table(
        20,
        "reqHistoricalData",
        "reqId:int",
        CONTRACT12,
        "includeExpired:bool endDateTime barSize duration useRTH:bool whatToShow formatDate:int",
        REQUEST_LEGS,
        "keepUpToDate:bool options",
    ),
    table(25, "cancelHistoricalData", "version:int reqId:int"),
    table(49, "reqCurrentTime", "version:int"),
    table(58, "reqGlobalCancel", "version:int"),
    table(59, "reqMarketDataType", "version:int type:int"),
    table(61, "reqPositions", "version:int"),
    table(62, "reqAccountSummary", "version:int reqId:int group tags"),
    table(63, "cancelAccountSummary", "version:int reqId:int"),
    table(64, "cancelPositions", "version:int"),
    table(76, "reqAccountUpdatesMulti", "version:int reqId:int account modelCode ledgerAndNLV:bool"),
    table(77, "cancelAccountUpdatesMulti", "version:int reqId:int"),
    table(92, "reqPnL", "reqId:int account modelCode"),
    table(93, "cancelPnL", "reqId:int"),
    table(94, "reqPnLSingle", "reqId:int account modelCode conId:int"),
    table(95, "cancelPnLSingle", "reqId:int"),
    table(99, "reqCompletedOrders", "apiOnly:bool"),
    *DATA_REQUESTS,
)

#: Requests that are served, by message number.
REQUESTS: dict[int, Message] = {message.number: message for message in _REQUESTS}

#: Requests of the protocol that are not served: number -> (name, position of the request id; 0 where it has none).
NOT_SERVED: dict[int, tuple[str, int]] = {
    10: ("reqMktDepth", 2),
    11: ("cancelMktDepth", 2),
    12: ("reqNewsBulletins", 0),
    13: ("cancelNewsBulletins", 0),
    18: ("requestFA", 0),
    19: ("replaceFA", 0),
    21: ("exerciseOptions", 2),
    22: ("reqScannerSubscription", 1),
    23: ("cancelScannerSubscription", 2),
    24: ("reqScannerParameters", 0),
    52: ("reqFundamentalData", 2),
    53: ("cancelFundamentalData", 2),
    54: ("calculateImpliedVolatility", 2),
    55: ("calculateOptionPrice", 2),
    56: ("cancelCalculateImpliedVolatility", 2),
    57: ("cancelCalculateOptionPrice", 2),
    65: ("verifyRequest", 0),
    66: ("verifyMessage", 0),
    67: ("queryDisplayGroups", 2),
    68: ("subscribeToGroupEvents", 2),
    69: ("updateDisplayGroup", 2),
    70: ("unsubscribeFromGroupEvents", 2),
    72: ("verifyAndAuthRequest", 0),
    73: ("verifyAndAuthMessage", 0),
    74: ("reqPositionsMulti", 2),
    75: ("cancelPositionsMulti", 2),
    78: ("reqSecDefOptParams", 1),
    79: ("reqSoftDollarTiers", 1),
    80: ("reqFamilyCodes", 0),
    84: ("reqNewsArticle", 1),
    85: ("reqNewsProviders", 0),
    86: ("reqHistoricalNews", 1),
    88: ("reqHistogramData", 1),
    89: ("cancelHistogramData", 1),
    100: ("reqWshMetaData", 1),
    101: ("cancelWshMetaData", 1),
    102: ("reqWshEventData", 1),
    103: ("cancelWshEventData", 1),
    104: ("reqUserInfo", 1),
}
