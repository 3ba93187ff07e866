"""Several connections can lead to one account. What counts for the account counts over all of them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, bindparam
from sqlalchemy.orm import InstrumentedAttribute


def gateway_kind(source: str) -> str:
    """`simulator`, `paper` or `live`: what stands before the connection id in a source."""
    return source.partition(":")[0]


def same_kind(column: InstrumentedAttribute[str], source: str) -> ColumnElement[bool]:
    """Whether a column's source is of the same kind of gateway, by whichever connection."""
    return column.like(like_kind(source))


def of_kind(column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """The same for a statement that is made once: its parameter `kind` is :func:`like_kind` of the source."""
    return column.like(bindparam("kind"))


def like_kind(source: str) -> str:
    """The LIKE pattern of the sources of the same kind; no kind has a wildcard in it."""
    return f"{gateway_kind(source)}:%"
