"""What can be traded: an instrument as the configuration names it, and as the broker pinned it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from airflow_ibkr_plugin.errors import ConfigError


class SecType(StrEnum):
    """IBKR's security types that this package trades. An ETF is a STK at IBKR."""

    STOCK = "STK"
    FOREX = "CASH"


_STOCK = re.compile(r"[A-Z0-9][A-Z0-9 .\-]{0,11}")
_FOREX = re.compile(r"([A-Z]{3})\.([A-Z]{3})")


@dataclass(frozen=True, kw_only=True)
class InstrumentSpec:
    """An instrument as a workflow names it; not yet known to the broker.

    :param symbol: IBKR symbol; for forex the base currency (`EUR` of EUR.USD).
    :param exchange: routing destination, `SMART` for stocks, `IDEALPRO` for forex.
    :param primary_exchange: listing exchange, needed where a symbol is listed more than once.
    """

    symbol: str
    sec_type: SecType = SecType.STOCK
    exchange: str = "SMART"
    currency: str = "USD"
    primary_exchange: str = ""

    @property
    def name(self) -> str:
        """The name people and files use: `SPY`, `EUR.USD`."""
        return f"{self.symbol}.{self.currency}" if self.sec_type is SecType.FOREX else self.symbol

    @property
    def key(self) -> str:
        """A stable text identity of the spec, used to remember which contract it was pinned to."""
        return "/".join((self.symbol, self.sec_type, self.exchange, self.currency, self.primary_exchange))

    @classmethod
    def parse(cls, value: str | Mapping[str, Any]) -> InstrumentSpec:
        """Read `SPY`, `EUR.USD`, or a mapping with the fields of this class.

        :raises ConfigError: the text is no symbol, or the mapping has unknown or wrong fields.
        """
        if isinstance(value, str):
            if pair := _FOREX.fullmatch(value):
                return cls(symbol=pair[1], currency=pair[2], sec_type=SecType.FOREX, exchange="IDEALPRO")
            if not _STOCK.fullmatch(value):
                raise ConfigError(
                    f"{value!r} is not a symbol.",
                    remedy="Write a stock as SPY, forex as EUR.USD, or a mapping with symbol, sec_type, exchange,"
                    " currency, primary_exchange.",
                )
            return cls(symbol=value)
        fields = dict(value)
        unknown = set(fields) - set(cls.__dataclass_fields__)
        if unknown or "symbol" not in fields:
            raise ConfigError(
                f"instrument {fields!r} has unknown fields {sorted(unknown)} or no symbol.",
                remedy=f"Allowed fields: {', '.join(cls.__dataclass_fields__)}.",
            )
        try:
            sec_type = SecType(fields.pop("sec_type", SecType.STOCK))
        except ValueError as error:
            raise ConfigError(str(error), remedy="Use STK or CASH.") from error
        if sec_type is SecType.FOREX:
            fields.setdefault("exchange", "IDEALPRO")
        return cls(sec_type=sec_type, **fields)


@dataclass(frozen=True, kw_only=True)
class Instrument(InstrumentSpec):
    """An instrument pinned to one IBKR contract.

    :param con_id: IBKR contract id; the identity everywhere behind the broker seam.
    :param min_tick: smallest price step, in `currency`.
    :param size_increment: smallest quantity step.
    :param time_zone: IANA zone of the trading hours.
    :param liquid_hours: IBKR's liquidHours text, the authority for the coming days ('' if not given).
    """

    con_id: int
    min_tick: Decimal
    size_increment: Decimal = Decimal(1)
    min_size: Decimal = Decimal(1)
    local_symbol: str = ""
    trading_class: str = ""
    long_name: str = ""
    time_zone: str = "UTC"
    trading_hours: str = ""
    liquid_hours: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for XCom and the database."""
        return {k: str(v) if isinstance(v, Decimal) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Instrument:
        """Inverse of :meth:`to_dict`."""
        decimals = {k: Decimal(value[k]) for k in ("min_tick", "size_increment", "min_size")}
        return cls(**{**value, **decimals, "sec_type": SecType(value["sec_type"])})
