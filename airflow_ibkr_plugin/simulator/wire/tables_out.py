"""Server to client messages, except the two large order messages (see `tables_orders`).

Source: the decoders of ib_insync 0.9.86, ib_async 2.1.0 and IBKR's own client, and messages recorded from real TWS.
"""

from __future__ import annotations

from airflow_ibkr_plugin.simulator.wire.fields import Repeat, fields, table

#: Contract fields as most server messages carry them (no primaryExchange).
CONTRACT11 = (
    "conId:int symbol secType lastTradeDate= strike:float=0 right= multiplier= exchange currency localSymbol"
    " tradingClass"
)
EXECUTION_CONTRACT = CONTRACT11.replace("strike:float=0", "strike:float=0.0")

TICK_PRICE = table(1, "tickPrice", "version==6 reqId:int tickType:int price:float size:dec= attributes:int=0")
TICK_SIZE = table(2, "tickSize", "version==6 reqId:int tickType:int size:dec")
TICK_GENERIC = table(45, "tickGeneric", "version==6 reqId:int tickType:int value:float")
TICK_STRING = table(46, "tickString", "version==6 reqId:int tickType:int value")
TICK_REQ_PARAMS = table(81, "tickReqParams", "reqId:int minTick:float bboExchange= snapshotPermissions:int=3")
TICK_SNAPSHOT_END = table(57, "tickSnapshotEnd", "version==1 reqId:int")
MARKET_DATA_TYPE = table(58, "marketDataType", "version==1 reqId:int type:int")

ERROR = table(4, "error", "version==2 id:int code:int message:ascii advancedOrderRejectJson:ascii=>=166")
NEXT_VALID_ID = table(9, "nextValidId", "version==1 orderId:int")
MANAGED_ACCOUNTS = table(15, "managedAccounts", "version==1 accounts")
CURRENT_TIME = table(49, "currentTime", "version==1 time:int")

CONTRACT_DETAILS = table(
    10,
    "contractDetails",
    "version==8<164 reqId:int symbol secType lastTradeDate= strike:float=0 right= exchange currency localSymbol",
    "marketName tradingClass conId:int minTick:dec mdSizeMultiplier=100<164 multiplier= orderTypes validExchanges",
    "priceMagnifier:int=1 underConId:int=0 longName:ascii primaryExchange contractMonth= industry= category=",
    "subcategory= timeZoneId tradingHours liquidHours evRule= evMultiplier:int=0",
    Repeat("secIds", fields("tag value")),
    "aggGroup:int=1 underSymbol= underSecType= marketRuleIds= realExpirationDate= stockType=",
    # 163 had a field that 164 replaced by three.
    "suggestedSize=1>=163<164 minSize=1>=164 sizeIncrement=1>=164 suggestedSizeIncrement=100>=164",
)
CONTRACT_DETAILS_END = table(52, "contractDetailsEnd", "version==1 reqId:int")

HISTORICAL_DATA = table(
    17,
    "historicalData",
    "reqId:int start end",
    Repeat("bars", fields("date open:float high:float low:float close:float volume:dec average:float barCount:int")),
)

ORDER_STATUS = table(
    3,
    "orderStatus",
    "orderId:int status filled:dec remaining:dec avgFillPrice permId:int parentId:int=0 lastFillPrice clientId:int",
    "whyHeld= mktCapPrice=0",
)
EXEC_DETAILS = table(
    11,
    "execDetails",
    "reqId:int orderId:int",
    EXECUTION_CONTRACT,
    "execId time account execExchange side shares:dec price:dec permId:int clientId:int liquidation:int=0 cumQty:dec",
    "avgPrice:dec orderRef= evRule= evMultiplier= modelCode= lastLiquidity:int",
)
EXEC_DETAILS_END = table(55, "execDetailsEnd", "version==1 reqId:int")
COMMISSION_REPORT = table(
    59,
    "commissionReport",
    "version==1 execId commission:float currency realizedPNL=MAX yield=MAX yieldRedemptionDate=",
)
ORDER_BOUND = table(100, "orderBound", "permId:int clientId:int orderId:int")
OPEN_ORDER_END = table(53, "openOrderEnd", "version==1")
COMPLETED_ORDERS_END = table(102, "completedOrdersEnd", "")

POSITION = table(61, "position", "version==3 account", CONTRACT11, "position:dec avgCost:dec")
POSITION_END = table(62, "positionEnd", "version==1")
ACCOUNT_VALUE = table(6, "accountValue", "version==2 key value currency= account")
PORTFOLIO_VALUE = table(
    7,
    "portfolioValue",
    "version==8 conId:int symbol secType lastTradeDate= strike:float=0 right=0 multiplier= primaryExchange currency",
    "localSymbol tradingClass position:dec marketPrice:dec marketValue:dec averageCost:dec unrealizedPNL:dec",
    "realizedPNL:dec account",
)
ACCOUNT_TIME = table(8, "accountTime", "version==1 time")
ACCOUNT_DOWNLOAD_END = table(54, "accountDownloadEnd", "version==1 account")
ACCOUNT_SUMMARY = table(63, "accountSummary", "version==1 reqId:int account key value currency=")
ACCOUNT_SUMMARY_END = table(64, "accountSummaryEnd", "version==1 reqId:int")
ACCOUNT_UPDATE_MULTI = table(73, "accountUpdateMulti", "version==1 reqId:int account modelCode= key value currency=")
ACCOUNT_UPDATE_MULTI_END = table(74, "accountUpdateMultiEnd", "version==1 reqId:int")
PNL = table(94, "pnl", "reqId:int dailyPnL:dec unrealizedPnL:dec realizedPnL:dec")
PNL_SINGLE = table(95, "pnlSingle", "reqId:int position:dec dailyPnL:dec unrealizedPnL:dec realizedPnL:dec value:dec")

#: Messages that end a list, by the name under which the control port can mute them.
END_MESSAGES = {
    message.name: message
    for message in (
        CONTRACT_DETAILS_END,
        TICK_SNAPSHOT_END,
        EXEC_DETAILS_END,
        OPEN_ORDER_END,
        COMPLETED_ORDERS_END,
        POSITION_END,
        ACCOUNT_DOWNLOAD_END,
        ACCOUNT_SUMMARY_END,
        ACCOUNT_UPDATE_MULTI_END,
    )
}
