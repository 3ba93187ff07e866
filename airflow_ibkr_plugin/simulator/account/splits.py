"""Splits of stocks, as the state keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from typing import Any


@dataclass(frozen=True)
class Split:
    """A stock became `ratio` new shares for each old one.

    :param price: of a new share, at which fractions were paid out. :param day: the broker's day.
    :param after: how many executions had been booked before it.
    """

    con_id: int
    ratio: Decimal
    price: Decimal
    day: date
    after: int


def dump_splits(splits: Iterable[Split]) -> list[dict[str, Any]]:
    """What :func:`load_splits` takes, as JSON has it."""
    return [asdict(split) | {"ratio": str(split.ratio), "price": str(split.price), "day": str(split.day)}
            for split in splits]  # fmt: skip


def load_splits(stored: Iterable[dict[str, Any]]) -> list[Split]:
    """Splits in the order in which they came."""
    return [
        Split(**item | {"ratio": Decimal(item["ratio"]), "price": Decimal(item["price"]),
                        "day": date.fromisoformat(item["day"])})
        for item in stored
    ]  # fmt: skip
