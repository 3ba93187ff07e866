"""Price increments and exchanges, as IBKR numbers and names them."""

from __future__ import annotations

from decimal import Decimal

#: What stocks' `tickReqParams` name, and reqSmartComponents asks for.
BBO_EXCHANGE = "9c0001"
SMART_COMPONENTS = tuple(
    {"bit": bit, "exchange": exchange, "exchangeLetter": letter}
    for bit, (exchange, letter) in enumerate(
        (("AMEX", "A"), ("NYSE", "N"), ("NASDAQ", "Q"), ("ARCA", "P"), ("BATS", "Z"), ("IEX", "V"))
    )
)
DEPTH_EXCHANGES = tuple(
    {"exchange": exchange, "secType": kind, "listingExchange": "", "serviceDataType": "Deep"}
    for exchange, kind in (("ARCA", "STK"), ("NASDAQ", "STK"), ("NYSE", "STK"), ("TSE", "STK"), ("IDEALPRO", "CASH"))
)

# Number and smallest step. 26 and 239 are IBKR's rules of US stocks and of EUR.USD; the other numbers, and that a step
# holds for all prices, are the simulator's own.
_RULES = {
    26: Decimal("0.01"),
    239: Decimal("0.00005"),
    59: Decimal("0.005"),
    557: Decimal("0.001"),
    1: Decimal("0.02"),
    635: Decimal("0.05"),
    636: Decimal("0.1"),
    637: Decimal("0.5"),
    638: Decimal(1),
    639: Decimal("0.0001"),
}
_NUMBERS = {step: number for number, step in _RULES.items()}


def market_rule(min_tick: Decimal) -> int:
    """The rule of a contract by its smallest step.

    :raises KeyError: no rule has that step.
    """
    return _NUMBERS[min_tick]


def increments(rule: int | None) -> list[tuple[float, float]] | None:
    """Prices from which a step holds, and the step; None if there is no such rule."""
    step = _RULES.get(rule or 0)
    return [(0.0, float(step))] if step is not None else None
