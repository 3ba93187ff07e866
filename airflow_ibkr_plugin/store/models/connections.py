"""Who leads the service, who talks to the broker under which client id, and the next order id of each."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base


class ClientLease(Base):
    """A client id in use by `owner` until `until`, unless renewed."""

    __tablename__ = "client_leases"

    source: Mapped[str] = mapped_column(primary_key=True)
    client_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner: Mapped[str]
    until: Mapped[datetime]


class LeaderRow(Base):
    """Who leads until `until`, unless renewed. `fence` grows with each term, so that a term that is over is known."""

    __tablename__ = "leaders"

    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    fence: Mapped[int]
    since: Mapped[datetime]
    until: Mapped[datetime]


class OrderIdRow(Base):
    """The next order id that a client may use. It only grows."""

    __tablename__ = "order_ids"

    source: Mapped[str] = mapped_column(primary_key=True)
    client_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    next_id: Mapped[int]
