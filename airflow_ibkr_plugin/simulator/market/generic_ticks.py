"""The generic ticks that reqMktData may ask for, by security type.

Source: what a gateway lists as legal in error 321, and TWS API, "Available Tick Types".
"""

from __future__ import annotations

_ONLY = "mdoff"
_DIVIDENDS = frozenset({"STK", "CFD", "OPT", "FOP", "FUT", "IND", "SLB"})
_SHORT_TERM = frozenset({"STK", "CFD", "OPT", "FOP", "WAR", "FUT", "FWD", "BOND", "BILL", "SLB", "IOPT", "CRYPTO"})

# Number, another number for the same (0: none), name, security types (None: all); in IBKR's order.
_TICKS: tuple[tuple[int, int, str, frozenset[str] | None], ...] = (
    (100, 0, "Option Volume", None),
    (101, 0, "Option Open Interest", None),
    (105, 0, "Average Opt Volume", None),
    (106, 0, "impvolat", None),
    (162, 0, "Index Future Premium", frozenset({"IND"})),
    (165, 0, "Misc. Stats", None),
    (221, 220, "Creditman Mark Price", None),
    (225, 0, "Auction", None),
    (232, 221, "Pl Price", None),
    (233, 0, "RTVolume", None),
    (236, 0, "inventory", None),
    (258, 47, "Fundamentals", None),
    (292, 0, "Wide_news", None),
    (293, 0, "TradeCount", None),
    (294, 0, "TradeRate", None),
    (295, 0, "VolumeRate", None),
    (318, 0, "LastRTHTrade", None),
    (375, 0, "RTTrdVolume", None),
    (411, 0, "rthistvol", None),
    (456, 59, "IBDividends", _DIVIDENDS),
    (460, 0, "Bond Factor Multiplier", None),
    (577, 0, "EtfNavLast(navlast)", None),
    (586, 0, "IPOHLMPRC", None),
    (587, 0, "Pl Price Delayed", None),
    (588, 0, "Futures Open Interest", None),
    (595, 0, "Short-Term Volume X Mins", _SHORT_TERM),
    (614, 0, "EtfNavMisc(high/low)", None),
    (619, 0, "Creditman Slow Mark Price", None),
    (623, 0, "EtfFrozenNavLast(fznavlast)", None),
)


def parse_generic(text: str, sec_type: str) -> frozenset[int] | None:
    """The generic ticks of a request; None where one of them is none that this kind of contract has.

    `mdoff`, see :func:`is_generic_only`, is none; `292:BRFG` is 292.
    """
    codes = {word.partition(":")[0] for word in _words(text) if word != _ONLY}
    legal = {
        str(code)
        for number, alias, _, types in _TICKS
        if types is None or sec_type in types
        for code in (number, alias)
        if code
    }
    return frozenset(map(int, codes)) if codes <= legal else None


def is_generic_only(text: str) -> bool:
    """Whether a request wants no other ticks."""
    return _ONLY in _words(text)


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip().lower())]


def legal_ones(sec_type: str) -> str:
    """What a gateway lists when it refuses one."""
    return ",".join(
        f"{number}/{alias}({name})" if alias else f"{number}({name})"
        for number, alias, name, types in _TICKS
        if types is None or sec_type in types
    )
