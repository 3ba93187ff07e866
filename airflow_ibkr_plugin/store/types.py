"""Column types that mean the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Numeric, String, Text
from sqlalchemy import Enum as SQLEnum
from sqlalchemy.types import TypeDecorator, TypeEngine

DECIMAL_PRECISION = 28
DECIMAL_PLACES = 10
_STEP = Decimal(1).scaleb(-DECIMAL_PLACES)
_LIMIT = Decimal(10) ** (DECIMAL_PRECISION - DECIMAL_PLACES)


class UTCDateTime(TypeDecorator[datetime]):
    """Aware UTC in and out. SQLite keeps text of a fixed width, so that comparing and sorting work there too."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=dialect.name != "sqlite"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; the trading database takes aware times only")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def exact(value: Decimal) -> Decimal:
    """The decimal as the database gives it back: rounded half even to `DECIMAL_PLACES`, no trailing zeros.

    :raises ValueError: not finite, or too large for NUMERIC(28,10).
    """
    with localcontext() as context:
        context.prec = DECIMAL_PRECISION + DECIMAL_PLACES
        if value.is_finite() and value.copy_abs() < _LIMIT:
            rounded = value.quantize(_STEP, rounding=ROUND_HALF_EVEN)
            whole = rounded.to_integral_value()
            if rounded != whole:
                return rounded.normalize()
            if whole.copy_abs() < _LIMIT:
                return whole + 0  # no negative zero
    raise ValueError(f"{value} is not a finite number below {_LIMIT:.0E}")


class ExactDecimal(TypeDecorator[Decimal]):
    """Money, prices and quantities without binary rounding; see :func:`exact`.

    NUMERIC(28,10) on PostgreSQL, text on SQLite, which has no exact number type. So sums and comparisons of these
    columns are made in Python, never in SQL.
    """

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String())
        return dialect.type_descriptor(Numeric(DECIMAL_PRECISION, DECIMAL_PLACES))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if not isinstance(value, Decimal):
            raise TypeError(f"{value!r} is a {type(value).__name__}; money is stored from Decimal only")
        value = exact(value)
        return f"{value:f}" if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else exact(Decimal(value))


class FreeText(TypeDecorator[str]):
    """Text that others wrote (answers, tracebacks, messages).

    NUL and lone surrogates, which a database cannot hold, become U+FFFD: a record must not be lost for them.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def enum_text(members: type[StrEnum]) -> SQLEnum:
    """A text column of a StrEnum's values; a new member needs no migration."""
    return SQLEnum(
        members, native_enum=False, length=32, create_constraint=False, values_callable=lambda e: [m.value for m in e]
    )


# SQLite's automatic key must be called INTEGER; its integers have 64 bits anyway.
BigInt = BigInteger().with_variant(Integer(), "sqlite")
