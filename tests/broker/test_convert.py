from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.broker.convert import (
    name_of,
    order_of,
    to_bar,
    to_decimal,
    to_execution,
    to_optional,
    to_price,
)
from airflow_ibkr_plugin.broker.gateway import handshake_zone
from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import OrderTicket, OrderType, Side


@given(st.decimals(min_value="0.0001", max_value="99999999", places=4))
def test_a_number_comes_back_as_it_was_written(value: Decimal) -> None:
    assert to_decimal(float(str(value))) == value


def test_unset_is_none_and_zero_is_no_price() -> None:
    assert to_optional(1.7976931348623157e308) is None
    assert to_optional(float("nan")) is None
    assert to_optional(0.0) == 0
    assert to_price(0.0) is None
    assert to_price(12.5) == Decimal("12.5")


@given(st.decimals(min_value="1E-8", max_value="1E+9", allow_nan=False, allow_infinity=False))
def test_decimals_go_out_exactly(value: Decimal) -> None:
    library = SimpleNamespace(Order=lambda **fields: SimpleNamespace(**fields))
    ticket = OrderTicket(
        side=Side.BUY, quantity=value, order_type=OrderType.STOP_LIMIT, limit_price=value, stop_price=value
    )

    order = order_of(library, ticket, order_ref="aip-1", account="DU1")

    assert order.totalQuantity == order.lmtPrice == order.auxPrice == value
    assert (order.action, order.orderType, order.tif) == ("BUY", "STP LMT", "DAY")


def test_a_day_starts_at_midnight_utc_and_volume_is_never_negative() -> None:
    raw = SimpleNamespace(
        date=date(2026, 3, 9), open=1.0, high=2.0, low=0.5, close=1.5, volume=-1.0, average=-1.0, barCount=-1
    )

    bar = to_bar(raw)

    assert bar.time == datetime(2026, 3, 9, tzinfo=UTC)
    assert (bar.volume, bar.wap, bar.count) == (0, 0, 0)


def frame(text: str) -> bytes:
    return len(text).to_bytes(4, "big") + text.encode()


@pytest.mark.parametrize(("told", "order_id"), [(7, 7), (2**31 - 1, 0)])
def test_executions_of_orders_by_hand_have_no_order_id(told: int, order_id: int) -> None:
    """Else all orders by hand would pass for one."""
    contract = SimpleNamespace(conId=1, symbol="SPY", secType="STK", localSymbol="SPY", currency="USD")
    execution = SimpleNamespace(
        execId="1",
        orderRef="",
        acctNumber="DU1",
        side="BOT",
        shares=1.0,
        price=100.0,
        time=datetime(2026, 1, 5, tzinfo=UTC),
        permId=5,
        orderId=told,
        clientId=0,
        exchange="NYSE",
    )
    assert to_execution(contract, execution).order_id == order_id


def test_the_zone_of_an_old_gateway_is_read_from_its_greeting() -> None:
    assert handshake_zone(frame("173\x0020261120 14:23:43 US/Eastern\0") + b"more") == "US/Eastern"


def test_an_unreadable_zone_is_refused() -> None:
    with pytest.raises(ConfigError, match="China Standard Time"):
        handshake_zone(frame("173\x0020261120 14:23:43 China Standard Time\0"))


@pytest.mark.parametrize("name", ["SPY", "EUR.USD"])
def test_the_brokers_contract_has_the_name_that_the_workflow_gave_it(name: str) -> None:
    spec = InstrumentSpec.parse(name)
    contract = SimpleNamespace(symbol=spec.symbol, currency=spec.currency, secType=str(spec.sec_type))
    assert name_of(contract) == name
