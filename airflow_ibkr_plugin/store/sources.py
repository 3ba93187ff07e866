"""Several connections can lead to one account. What counts for the account counts over all of them."""

from __future__ import annotations

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute


def gateway_kind(source: str) -> str:
    """`simulator`, `paper` or `live`: what stands before the connection id in a source."""
    return source.partition(":")[0]


def same_kind(column: InstrumentedAttribute[str], source: str) -> ColumnElement[bool]:
    """Whether a column's source is of the same kind of gateway, by whichever connection."""
    return column.startswith(f"{gateway_kind(source)}:", autoescape=True)
