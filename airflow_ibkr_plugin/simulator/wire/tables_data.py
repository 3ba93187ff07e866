"""Messages about historical data, quotes and contracts beyond what `tables_in` and `tables_out` hold.

Source: the encoders and decoders of ib_insync 0.9.86, ib_async 2.1.0 and IBKR's own client.
"""

from __future__ import annotations

from airflow_ibkr_plugin.simulator.wire.fields import Repeat, fields, table

#: Contract fields as requests carry them.
CONTRACT12 = (
    "conId:int symbol secType lastTradeDate strike:float right multiplier exchange primaryExchange currency localSymbol"
    " tradingClass"
)

DATA_REQUESTS = (
    table(
        50,
        "reqRealTimeBars",
        "version:int reqId:int",
        CONTRACT12,
        "barSize:int whatToShow useRTH:bool options",
    ),
    table(51, "cancelRealTimeBars", "version:int reqId:int"),
    table(81, "reqMatchingSymbols", "reqId:int pattern"),
    table(82, "reqMktDepthExchanges", ""),
    table(83, "reqSmartComponents", "reqId:int bboExchange"),
    table(87, "reqHeadTimeStamp", "reqId:int", CONTRACT12, "includeExpired:bool useRTH:bool whatToShow formatDate:int"),
    table(90, "cancelHeadTimeStamp", "reqId:int"),
    table(91, "reqMarketRule", "marketRuleId:int"),
    table(
        96,
        "reqHistoricalTicks",
        "reqId:int",
        CONTRACT12,
        "includeExpired:bool startDateTime endDateTime numberOfTicks:int whatToShow useRTH:bool ignoreSize:bool",
        "options",
    ),
    table(97, "reqTickByTickData", "reqId:int", CONTRACT12, "tickType numberOfTicks:int ignoreSize:bool"),
    table(98, "cancelTickByTickData", "reqId:int"),
)

REAL_TIME_BAR = table(
    50,
    "realtimeBar",
    "version==3 reqId:int time:int open:float high:float low:float close:float volume:dec average:float barCount:int",
)
# Close comes before high and low here, unlike everywhere else.
HISTORICAL_DATA_UPDATE = table(
    90,
    "historicalDataUpdate",
    "reqId:int barCount:int date open:float close:float high:float low:float average:float volume:dec",
)
HEAD_TIMESTAMP = table(88, "headTimestamp", "reqId:int headTimestamp")
HISTORICAL_SCHEDULE = table(
    106,
    "historicalSchedule",
    "reqId:int start end timeZone",
    Repeat("sessions", fields("start end refDate")),
)
HISTORICAL_TICKS = table(
    96, "historicalTicks", "reqId:int", Repeat("ticks", fields("time:int unused==0 price:float size:dec")), "done:bool"
)
HISTORICAL_TICKS_BID_ASK = table(
    97,
    "historicalTicksBidAsk",
    "reqId:int",
    Repeat("ticks", fields("time:int mask:int=0 bid:float ask:float bidSize:dec askSize:dec")),
    "done:bool",
)
HISTORICAL_TICKS_LAST = table(
    98,
    "historicalTicksLast",
    "reqId:int",
    Repeat("ticks", fields("time:int mask:int=0 price:float size:dec exchange specialConditions=")),
    "done:bool",
)
# One message for all kinds of ticks: what follows the time goes by the kind.
TICK_BY_TICK_LAST = table(
    99, "tickByTick", "reqId:int kind:int time:int price:float size:dec mask:int=0 exchange specialConditions="
)
TICK_BY_TICK_BID_ASK = table(
    99, "tickByTick", "reqId:int kind==3 time:int bid:float ask:float bidSize:dec askSize:dec mask:int=0"
)
TICK_BY_TICK_MIDPOINT = table(99, "tickByTick", "reqId:int kind==4 time:int midPoint:float")
SYMBOL_SAMPLES = table(
    79,
    "symbolSamples",
    "reqId:int",
    Repeat(
        "contracts",
        (
            *fields("conId:int symbol secType primaryExchange currency"),
            Repeat("derivatives", fields("derivative")),
            *fields("description=>=176 issuerId=>=176"),
        ),
    ),
)
MKT_DEPTH_EXCHANGES = table(
    80,
    "mktDepthExchanges",
    Repeat("exchanges", fields("exchange secType listingExchange serviceDataType aggGroup:int=2147483647")),
)
SMART_COMPONENTS = table(
    82, "smartComponents", "reqId:int", Repeat("components", fields("bit:int exchange exchangeLetter"))
)
MARKET_RULE = table(93, "marketRule", "marketRuleId:int", Repeat("increments", fields("lowEdge:float increment:float")))
