"""The declarative base: one rule for every type and every constraint's name."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import JSON, Boolean, Double, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from airflow_ibkr_plugin.store.types import BigInt, ExactDecimal, UTCDateTime

# Named constraints, so that later migrations can change them on both databases.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of all models. Times are aware UTC; money is Decimal; JSON columns hold plain JSON."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: String(),
        int: BigInt,
        bool: Boolean(),
        float: Double(),
        Decimal: ExactDecimal(),
        datetime: UTCDateTime(),
        dict[str, Any]: JSON(),
        list[Any]: JSON(),
    }


class Meta(Base):
    """Facts about the installation, such as its id."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class OfTask:
    """Columns of a record that a task of a DAG run made."""

    dag_id: Mapped[str]
    run_id: Mapped[str]
    task_id: Mapped[str]
