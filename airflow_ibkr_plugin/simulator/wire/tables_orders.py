"""The order messages: placeOrder of the client, openOrder and completedOrder of the server.

Defaults of the server messages are what a real TWS sent for a plain order (`openOrder` at server version 164,
`completedOrder` at 178; the recorded messages are in the tests).
"""

from __future__ import annotations

from airflow_ibkr_plugin.simulator.wire.fields import Repeat, When, equals, fields, given, positive, table

_SCALE = (
    "scalePriceAdjustValue scalePriceAdjustInterval scaleProfitOffset scaleAutoReset scaleInitPosition"
    " scaleInitFillQty scaleRandomPercent"
)
_TAG_VALUES = fields("tag value")
_PEG_BENCH = When(
    equals("orderType", "PEG BENCH", "PEGBENCH"),
    fields("referenceContractId peggedDecrease peggedChangeAmount referenceChangeAmount referenceExchangeId"),
)

# One condition; its fields depend on its type: price 1, time 3, margin 4, execution 5, volume 6, percent change 7.
_CONDITION = (
    *fields("type conjunction"),
    When(equals("type", "5"), fields("secType exchange symbol")),
    When(equals("type", "1", "3", "4", "6", "7"), fields("isMore:bool value")),
    When(equals("type", "1", "6", "7"), fields("conId:int exchange")),
    When(equals("type", "1"), fields("triggerMethod:int")),
)
_MID_OFFSETS = fields("midOffsetAtWhole>=170 midOffsetAtHalf>=170")

PLACE_ORDER = table(
    3,
    "placeOrder",
    "orderId:int conId:int symbol secType lastTradeDate strike:float right multiplier exchange primaryExchange",
    "currency localSymbol tradingClass secIdType secId",
    "action quantity:dec orderType lmtPrice:dec auxPrice:dec tif ocaGroup account openClose origin:int orderRef",
    "transmit:bool parentId:int blockOrder:bool sweepToFill:bool displaySize:int triggerMethod:int outsideRth:bool",
    "hidden:bool",
    When(
        equals("secType", "BAG"),
        (
            Repeat(
                "comboLegs",
                fields(
                    "conId:int ratio:int action exchange openClose shortSaleSlot:int designatedLocation exemptCode:int"
                ),
            ),
            Repeat("orderComboLegs", fields("price:float")),
            Repeat("smartComboRoutingParams", _TAG_VALUES),
        ),
    ),
    "deprecatedSharesAllocation discretionaryAmt:float goodAfterTime goodTillDate faGroup faMethod faPercentage",
    "faProfile<177 modelCode",
    "shortSaleSlot:int designatedLocation exemptCode:int ocaType:int rule80A settlingFirm allOrNone:bool minQty:int",
    "percentOffset:float eTradeOnly:bool firmQuoteOnly:bool nbboPriceCap:float auctionStrategy:int",
    "startingPrice:float stockRefPrice:float delta:float stockRangeLower:float stockRangeUpper:float",
    "overridePercentage:bool",
    "volatility:float volatilityType:int deltaNeutralOrderType deltaNeutralAuxPrice:float",
    When(
        given("deltaNeutralOrderType"),
        fields(
            "deltaNeutralConId deltaNeutralSettlingFirm deltaNeutralClearingAccount deltaNeutralClearingIntent"
            " deltaNeutralOpenClose deltaNeutralShortSale deltaNeutralShortSaleSlot deltaNeutralDesignatedLocation"
        ),
    ),
    "continuousUpdate:bool referencePriceType:int trailStopPrice:float trailingPercent:float scaleInitLevelSize:int",
    "scaleSubsLevelSize:int scalePriceIncrement:float",
    When(positive("scalePriceIncrement"), fields(_SCALE)),
    "scaleTable activeStartTime activeStopTime hedgeType",
    When(given("hedgeType"), fields("hedgeParam")),
    "optOutSmartRouting:bool clearingAccount clearingIntent notHeld:bool deltaNeutral:bool",
    When(given("deltaNeutral"), fields("dncConId:int dncDelta:float dncPrice:float")),
    "algoStrategy",
    When(given("algoStrategy"), (Repeat("algoParams", _TAG_VALUES),)),
    "algoId whatIf:bool miscOptions solicited:bool randomizeSize:bool randomizePrice:bool",
    _PEG_BENCH,
    Repeat("conditions", _CONDITION, tail=fields("conditionsIgnoreRth:bool conditionsCancelOrder:bool")),
    "adjustedOrderType triggerPrice:float lmtPriceOffset:float adjustedStopPrice:float adjustedStopLimitPrice:float",
    "adjustedTrailingAmount:float adjustableTrailingUnit extOperator tierName tierValue cashQty:float",
    "mifid2DecisionMaker mifid2DecisionAlgo mifid2ExecutionTrader mifid2ExecutionAlgo dontUseAutoPriceForHedge:bool",
    "isOmsContainer:bool discretionaryUpToLimitPrice:bool usePriceMgmtAlgo duration>=158 postToAts>=160",
    "autoCancelParent>=162 advancedErrorOverride>=166 manualOrderTime>=169",
    When(equals("exchange", "IBKRATS"), fields("minTradeQty>=170")),
    When(equals("orderType", "PEG BEST", "PEGBEST"), fields("minCompeteSize>=170 competeAgainstBestOffset>=170")),
    # The best offset without a bound means "up to the midpoint", which the two offsets from it then limit.
    When(equals("competeAgainstBestOffset", "Infinity", "Infinite"), _MID_OFFSETS),
    When(equals("orderType", "PEG MID", "PEGMID"), _MID_OFFSETS),
)

_OPEN_HEAD = (
    "conId:int symbol secType lastTradeDate= strike=0 right=? multiplier= exchange currency localSymbol tradingClass"
    " action quantity:dec orderType lmtPrice=0.0 auxPrice=0.0 tif ocaGroup= account openClose= origin=0 orderRef="
)

OPEN_ORDER = table(
    5,
    "openOrder",
    "orderId:int",
    _OPEN_HEAD,
    "clientId:int permId:int outsideRth=0 hidden=0 discretionaryAmt=0 goodAfterTime= sharesAllocation faGroup=",
    "faMethod= faPercentage= faProfile=<177 modelCode= goodTillDate= rule80A= percentOffset= settlingFirm=",
    "shortSaleSlot=0 designatedLocation= exemptCode=-1 auctionStrategy=0 startingPrice= stockRefPrice= delta=",
    "stockRangeLower= stockRangeUpper= displaySize=IMAX blockOrder=0 sweepToFill=0 allOrNone=0 minQty= ocaType=3",
    "eTradeOnly=0 firmQuoteOnly=0 nbboPriceCap= parentId=0 triggerMethod=0 volatility= volatilityType=0",
    # A real TWS always names a delta-neutral order type, so the eight fields behind it are always there.
    "deltaNeutralOrderType==None deltaNeutralAuxPrice= deltaNeutralConId=0 deltaNeutralSettlingFirm=",
    "deltaNeutralClearingAccount= deltaNeutralClearingIntent= deltaNeutralOpenClose=? deltaNeutralShortSale=0",
    "deltaNeutralShortSaleSlot=0 deltaNeutralDesignatedLocation=",
    "continuousUpdate=0 referencePriceType=0 trailStopPrice= trailingPercent= basisPoints= basisPointsType=",
    "comboLegsDescription= comboLegCount==0 orderComboLegCount==0 smartParamCount==0 scaleInitLevelSize=IMAX",
    "scaleSubsLevelSize=IMAX scalePriceIncrement== hedgeType== optOutSmartRouting=0 clearingAccount= clearingIntent=IB",
    "notHeld=0 deltaNeutral==0 algoStrategy== solicited=0 whatIf=0 status initMarginBefore=MAX maintMarginBefore=MAX",
    "equityWithLoanBefore=MAX initMarginChange=MAX maintMarginChange=MAX equityWithLoanChange=MAX",
    "initMarginAfter=MAX maintMarginAfter=MAX equityWithLoanAfter=MAX commission= minCommission= maxCommission=",
    "commissionCurrency= warningText= randomizeSize=0 randomizePrice=0 conditionCount==0 adjustedOrderType=None",
    "triggerPrice=MAX adjustedTrailStopPrice=MAX lmtPriceOffset=MAX adjustedStopPrice=MAX adjustedStopLimitPrice=MAX",
    "adjustedTrailingAmount=MAX adjustableTrailingUnit=0 tierName= tierValue= tierDisplayName= cashQty=0",
    "dontUseAutoPriceForHedge=1 isOmsContainer=0 discretionaryUpToLimitPrice=0 usePriceMgmtAlgo=0 duration=>=158",
    "postToAts=>=160 autoCancelParent=0>=162 minTradeQty=>=170 minCompeteSize=>=170 competeAgainstBestOffset=>=170",
    "midOffsetAtWhole=>=170 midOffsetAtHalf=>=170",
)

COMPLETED_ORDER = table(
    101,
    "completedOrder",
    _OPEN_HEAD,
    "permId:int outsideRth=0 hidden=0 discretionaryAmt=0 goodAfterTime= faGroup= faMethod= faPercentage=",
    "faProfile=<177 modelCode= goodTillDate= rule80A= percentOffset= settlingFirm= shortSaleSlot=0",
    "designatedLocation= exemptCode=-1 startingPrice= stockRefPrice= delta= stockRangeLower= stockRangeUpper=",
    "displaySize=IMAX sweepToFill=0 allOrNone=0 minQty= ocaType=1 triggerMethod=0 volatility= volatilityType=0",
    "deltaNeutralOrderType==None deltaNeutralAuxPrice= deltaNeutralConId=0 deltaNeutralShortSale=0",
    "deltaNeutralShortSaleSlot=0 deltaNeutralDesignatedLocation= continuousUpdate=0 referencePriceType=0",
    "trailStopPrice= trailingPercent= comboLegsDescription= comboLegCount==0 orderComboLegCount==0 smartParamCount==0",
    "scaleInitLevelSize=IMAX scaleSubsLevelSize=IMAX scalePriceIncrement== hedgeType== clearingAccount=",
    "clearingIntent=IB notHeld=0 deltaNeutral==0 algoStrategy== solicited=0 status randomizeSize=0 randomizePrice=0",
    "conditionCount==0 completedTrailStopPrice=MAX lmtPriceOffset=MAX cashQty=0 dontUseAutoPriceForHedge=1",
    "isOmsContainer=0 autoCancelDate= filledQuantity:dec refFuturesConId=IMAX autoCancelParent=0 shareholder=",
    "imbalanceOnly=0 routeMarketableToBbo=0 parentPermId=9223372036854775807 completedTime completedStatus",
    "minTradeQty=>=170 minCompeteSize=>=170 competeAgainstBestOffset=>=170 midOffsetAtWhole=>=170",
    "midOffsetAtHalf=>=170",
)
