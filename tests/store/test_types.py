from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import StatementError

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import AlertRow, PositionRow
from airflow_ibkr_plugin.store.types import exact

ON_DATABASE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
MONEY = st.decimals(min_value=-(10**17), max_value=10**17, places=10, allow_nan=False, allow_infinity=False)


def position(at: datetime, quantity: Decimal = Decimal(1), average_cost: Decimal = Decimal(1)) -> PositionRow:
    return PositionRow(
        source="s",
        account="a",
        strategy="",
        con_id=1,
        symbol="SPY",
        sec_type="STK",
        currency="USD",
        quantity=quantity,
        average_cost=average_cost,
        updated_at=at,
    )


def round_trip(database: Database, row: Any) -> Any:
    with database.write() as session:
        session.merge(row)
    with database.read() as session:
        return session.scalars(select(type(row))).one()


@ON_DATABASE
@given(quantity=MONEY, cost=MONEY)
def test_decimals_come_back_exactly(database: Database, now: datetime, quantity: Decimal, cost: Decimal) -> None:
    row = round_trip(database, position(now, quantity, cost))
    assert (row.quantity, row.average_cost) == (quantity, cost)
    assert str(row.quantity) == str(exact(quantity))  # the same text on both databases


@pytest.mark.parametrize("value", ["100", "0", "-0", "1E+3", "0.1", "1.10"])
def test_decimals_are_plain(database: Database, now: datetime, value: str) -> None:
    stored = round_trip(database, position(now, Decimal(value))).quantity
    assert str(stored) == f"{Decimal(value) + 0:f}".removesuffix("0" if value == "1.10" else "")


def test_more_places_are_rounded_alike(database: Database, now: datetime) -> None:
    row = round_trip(database, position(now, Decimal("33.33333333335"), Decimal("33.33333333345")))
    assert (row.quantity, row.average_cost) == (Decimal("33.3333333334"), Decimal("33.3333333334"))


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "1E+18", "999999999999999999.99999999999", "1.7976931348623157E+308"]
)
def test_what_is_no_amount_is_refused(database: Database, now: datetime, value: str) -> None:
    with pytest.raises(StatementError, match="not a finite number"):
        round_trip(database, position(now, Decimal(value)))


def test_floats_are_refused(database: Database, now: datetime) -> None:
    with pytest.raises(StatementError, match="from Decimal only"):
        round_trip(database, position(now, 0.1))  # type: ignore[arg-type]


@ON_DATABASE
@given(
    moment=st.datetimes(
        min_value=datetime(1990, 1, 1),  # noqa: DTZ001  hypothesis adds the zone
        max_value=datetime(2100, 1, 1),  # noqa: DTZ001
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))]),
    )
)
def test_times_come_back_in_utc(database: Database, moment: datetime) -> None:
    stored = round_trip(database, position(moment)).updated_at
    assert stored == moment
    assert stored.utcoffset() == timedelta(0)


def test_naive_times_are_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="no time zone"):
        round_trip(database, position(datetime(2026, 1, 5)))  # noqa: DTZ001


@ON_DATABASE
@given(body=st.text(st.characters(exclude_categories=["Cs"]), max_size=50), lone=st.sampled_from("\ud800\udfff"))
def test_any_text_can_be_stored(database: Database, now: datetime, body: str, lone: str) -> None:
    body = f"{body}a{lone}z"
    alert = AlertRow(id=1, dedupe_key="k", severity="info", title="t", body=body, strategy="", dag_id="", run_id="")
    alert.created_at = alert.next_attempt_at = now
    stored = round_trip(database, alert).body
    assert stored == "".join("\ufffd" if c in ("\0", lone) else c for c in body)


def test_text_that_no_database_can_hold_is_marked(database: Database, now: datetime) -> None:
    alert = AlertRow(id=1, dedupe_key="k", severity="info", title="t", strategy="", dag_id="", run_id="")
    alert.body = "a\0b\ud800c"
    alert.created_at = alert.next_attempt_at = now
    assert round_trip(database, alert).body == "a\ufffdb\ufffdc"
