"""An order as a workflow describes it, before it has a quantity and prices. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from airflow_ibkr_plugin.errors import ConfigError, NoMarketData
from airflow_ibkr_plugin.trading.brackets import BracketPlan, Exit
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import LIMITED, STOPS, OrderTicket, OrderType, Side, TimeInForce, unfit
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Quote
from airflow_ibkr_plugin.trading.sizing import Sizing, SizingBy, limit_price, stop_price, trail_step, usable_price


@dataclass(frozen=True, kw_only=True)
class TicketPlan:
    """An order as a workflow describes it.

    :param limit_offset: for LMT and STP LMT, see :func:`limit_price`; from the stop price where there is one.
    :param stop_offset: for STP, STP LMT and TRAIL, see :func:`stop_price`; a TRAIL without one begins at its distance.
    :param trail_offset, trail_amount: how far a TRAIL follows the market, one of the two: as a fraction of the price,
        or in the instrument's currency, rounded down to the tick.
    :param bracket: the exits that are sent with it.
    :raises ConfigError: these do not go together.
    """

    side: Side
    sizing: Sizing
    order_type: OrderType = OrderType.MARKET
    limit_offset: Decimal = Decimal(0)
    stop_offset: Decimal | None = None
    trail_offset: Decimal | None = None
    trail_amount: Decimal | None = None
    tif: TimeInForce = TimeInForce.DAY
    outside_rth: bool = False
    bracket: BracketPlan | None = None

    def __post_init__(self) -> None:
        if self.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and self.stop_offset is None:
            raise ConfigError(
                f"{self.order_type} needs a stop_offset.",
                remedy="Give stop_offset as a fraction of the price, such as 0.01; or use MKT or LMT.",
            )
        for name in ("stop_offset", "trail_offset"):
            offset = getattr(self, name)
            if offset is not None and not (offset.is_finite() and 0 < offset < 1):
                raise ConfigError(f"{name} {offset} cannot be used.", remedy="Give a fraction of the price: 0.01.")
        if self.trail_amount is not None and not usable_price(self.trail_amount):
            raise ConfigError(f"trail_amount {self.trail_amount} cannot be used.", remedy="Give it in money, above 0.")
        trails = [trail for trail in (self.trail_offset, self.trail_amount) if trail is not None]
        if len(trails) != (self.order_type is OrderType.TRAIL):
            raise ConfigError(
                f"{self.order_type} with trail_offset {self.trail_offset} and trail_amount {self.trail_amount}.",
                remedy="Give a TRAIL one of the two, and other order types neither.",
            )
        if why := unfit(self.order_type, self.tif, outside_rth=self.outside_rth):
            raise ConfigError(f"{why}.", remedy="Change order_type, tif or outside_rth.")
        if self.sizing.by is SizingBy.RISK_PER_TRADE and self.bracket is None:
            raise ConfigError(
                "sizing by risk_per_trade needs a stop, and the order has none.",
                remedy="Give the order a `bracket`, or size it by quantity, notional or share_of_net_liquidation.",
            )

    def ticket(self, instrument: Instrument, quote: Quote, account: AccountSnapshot) -> OrderTicket:
        """The ticket at these prices and this account's worth.

        :raises ConfigError: the size is too small or needs a rate that the broker does not tell, or an offset leaves no
            price above zero, or puts an exit on the wrong side of the entry.
        :raises NoMarketData: a price or a rate is needed, and there is none or it is too old.
        """
        reference, limit, stop = quote.reference, None, None
        if self.order_type in STOPS:
            stop = self._stop(instrument, _needed(instrument, reference, "stop"))
        if self.order_type in LIMITED:
            base = stop if stop is not None else _needed(instrument, reference, "limit")
            limit = limit_price(instrument, self.side, base, self.limit_offset)
        known = [price for price in (reference, limit, stop) if price is not None and usable_price(price)]
        distance = None
        if self.bracket is not None and self.sizing.by is SizingBy.RISK_PER_TRADE:
            distance = self.bracket.loss(instrument, self.side, self._entry(instrument, limit, stop, quote))
        quantity = self.sizing.quantity(
            instrument, price=max(known, default=None), account=account, stop_distance=distance
        )
        percent = None if self.trail_offset is None else self.trail_offset * 100
        return OrderTicket(
            side=self.side,
            quantity=quantity,
            order_type=self.order_type,
            limit_price=limit,
            stop_price=stop,
            trail_amount=None if self.trail_amount is None else trail_step(instrument, self.trail_amount),
            trail_percent=percent,
            tif=self.tif,
            outside_rth=self.outside_rth,
        )

    def exits(self, instrument: Instrument, ticket: OrderTicket, quote: Quote) -> tuple[Exit, ...]:
        """The exits of its bracket, for the ticket that it came to; none without a bracket.

        :raises ConfigError: an exit would stand on the wrong side of a price at which the entry may fill.
        :raises NoMarketData: there is no price.
        """
        if self.bracket is None:
            return ()
        base = self._entry(instrument, ticket.limit_price, ticket.stop_price, quote)
        # A stop entry does not fill before its stop price, and none beyond its limit; else it may where the market is.
        market = quote.reference if ticket.stop_price is None else None
        if market is not None and ticket.limit_price is not None:
            market = min(market, ticket.limit_price) if self.side is Side.BUY else max(market, ticket.limit_price)
        near = [price for price in (market, ticket.stop_price, base) if price is not None]
        return self.bracket.exits(instrument, ticket, base, near)

    def _stop(self, instrument: Instrument, reference: Decimal) -> Decimal:
        offset = self.stop_offset if self.stop_offset is not None else self.trail_offset
        if offset is None:
            assert self.trail_amount is not None
            offset = trail_step(instrument, self.trail_amount) / reference
        return stop_price(instrument, self.side, reference, offset)

    def _entry(self, instrument: Instrument, limit: Decimal | None, stop: Decimal | None, quote: Quote) -> Decimal:
        """The worst price at which the entry is meant to fill: limit, stop, or the side of the quote that it takes."""
        if limit is not None or stop is not None:
            return limit if limit is not None else _needed(instrument, stop, "stop")
        reference = _needed(instrument, quote.reference, "entry")
        side = quote.ask if self.side is Side.BUY else quote.bid
        return side if side is not None and usable_price(side) else reference


def _needed(instrument: Instrument, reference: Decimal | None, what: str) -> Decimal:
    if reference is None or not usable_price(reference):
        raise NoMarketData(
            f"{instrument.name}: a {what} price needs a reference, and there is {reference}.",
            remedy="Check the market data subscription.",
        )
    return reference
