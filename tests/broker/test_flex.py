"""Flex statements as files: what is read from them, and what is refused with file, line, field and remedy."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from airflow_ibkr_plugin.broker.flex import Statement, read_statement
from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.trading.instruments import SecType
from airflow_ibkr_plugin.trading.orders import Side

TRADE = {
    "accountId": "DU1234567",
    "currency": "USD",
    "assetCategory": "STK",
    "symbol": "SPY",
    "conid": "756733",
    "tradeID": "999",
    "dateTime": "20260302;100500",
    "transactionType": "ExchTrade",
    "exchange": "ISLAND",
    "quantity": "10",
    "tradePrice": "580.25",
    "ibCommission": "-1.0035",
    "ibCommissionCurrency": "USD",
    "openCloseIndicator": "O",
    "fifoPnlRealized": "0",
    "buySell": "BUY",
    "ibOrderID": "1376327563",
    "ibExecID": "00025b46.63f8f39c.01.01",
    "orderReference": "aip-1",
    "levelOfDetail": "EXECUTION",
}


def trade(**changes: str | None) -> str:
    fields = {name: value for name, value in (TRADE | changes).items() if value is not None}
    return "<Trade " + " ".join(f"{name}={quoteattr(value)}" for name, value in fields.items()) + " />"


def text(*trades: str, trades_section: bool = True, head: str = "", **period: str) -> str:
    days = {"fromDate": "20260302", "toDate": "20260302", "whenGenerated": "20260303;040000"} | period
    attributes = " ".join(f"{name}={quoteattr(value)}" for name, value in days.items())
    section = "<Trades>\n" + "\n".join(trades) + "\n</Trades>" if trades_section else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<FlexQueryResponse queryName="q" type="AF">\n'
        f'<FlexStatements count="1">\n<FlexStatement accountId="DU1234567" {attributes}>\n{section}\n'
        "</FlexStatement>\n</FlexStatements>\n</FlexQueryResponse>\n"
    )


def read(tmp_path: Path, content: str, **options: Any) -> Statement:
    path = tmp_path / "statement.xml"
    path.write_text(content)
    return read_statement(path, **options)


def fault(tmp_path: Path, content: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content, **options)
    assert caught.value.remedy
    return str(caught.value)


def test_an_execution_is_read_with_all_that_the_books_need(tmp_path: Path) -> None:
    statement = read(tmp_path, text(trade()))
    (one,) = statement.trades
    fill = one.execution
    assert (one.line, one.currency, one.sec_type, one.cancelled) == (6, "USD", SecType.STOCK, False)
    assert (fill.exec_id, fill.order_ref, fill.perm_id) == ("00025b46.63f8f39c.01.01", "aip-1", 1376327563)
    assert (fill.side, fill.quantity, fill.price) == (Side.BUY, Decimal(10), Decimal("580.25"))
    assert fill.time == datetime(2026, 3, 2, 15, 5, tzinfo=UTC)  # New York in winter
    assert (fill.commission, fill.commission_currency, fill.realized_pnl) == (Decimal("1.0035"), "USD", None)
    assert (fill.account, fill.con_id, fill.symbol, fill.exchange) == ("DU1234567", 756733, "SPY", "ISLAND")
    (period,) = statement.periods
    assert (period.account, period.first, period.last) == ("DU1234567", date(2026, 3, 2), date(2026, 3, 2))


def test_a_sale_has_a_negative_quantity_and_a_profit(tmp_path: Path) -> None:
    sale = trade(buySell="SELL", quantity="-4", openCloseIndicator="C", fifoPnlRealized="-12.5", ibCommission="0.3")
    (one,) = read(tmp_path, text(sale)).trades
    fill = one.execution
    assert (fill.side, fill.quantity, fill.realized_pnl) == (Side.SELL, Decimal(4), Decimal("-12.5"))
    assert fill.commission == Decimal("-0.3")  # a rebate


@pytest.mark.parametrize(
    "written", ["20260302;100500", "2026-03-02;10:05:00", "2026-03-02, 10:05:00", "2026-03-02 10:05:00"]
)
def test_times_of_each_format(tmp_path: Path, written: str) -> None:
    (one,) = read(tmp_path, text(trade(dateTime=written)), time_zone="Europe/Berlin").trades
    assert one.execution.time == datetime(2026, 3, 2, 9, 5, tzinfo=UTC)


def test_summaries_and_other_kinds_of_instruments_are_passed_over(tmp_path: Path) -> None:
    statement = read(
        tmp_path,
        text(
            trade(levelOfDetail="ORDER", ibExecID=""),
            trade(assetCategory="OPT", symbol="SPY 260320C00600000"),
            trade(assetCategory="CASH", symbol="EUR.USD", levelOfDetail=None),
        ),
    )
    assert [one.sec_type for one in statement.trades] == [SecType.FOREX]
    assert statement.skipped == ("statement.xml:7: OPT SPY 260320C00600000",)


def test_one_execution_twice_is_one_and_otherwise_a_fault(tmp_path: Path) -> None:
    assert len(read(tmp_path, text(trade(), trade())).trades) == 1
    assert "statement.xml:7: ibExecID 00025b46.63f8f39c.01.01 is on line 6 too, otherwise" in fault(
        tmp_path, text(trade(), trade(tradePrice="581"))
    )


def test_what_ibkr_took_back_is_marked(tmp_path: Path) -> None:
    for cancelled in (trade(buySell="BUY (Ca.)"), trade(transactionType="TradeCancel"), trade(notes="P;Ca")):
        (one,) = read(tmp_path, text(cancelled)).trades
        assert one.cancelled


@pytest.mark.parametrize("exec_id", ["", TRADE["ibExecID"]])
def test_a_trade_and_its_cancellation_are_both_there_the_latter_with_the_other_sign(
    tmp_path: Path, exec_id: str
) -> None:
    taken_back = trade(
        buySell="BUY (Ca.)", transactionType="TradeCancel", quantity="-10", ibExecID=exec_id, dateTime="20260303;090000"
    )
    found = read(tmp_path, text(trade(), taken_back)).trades
    assert [one.cancelled for one in found] == [False, True]
    assert {one.execution.quantity for one in found} == {Decimal(10)}


def test_what_is_booked_anew_behind_a_cancellation_may_have_the_same_id(tmp_path: Path) -> None:
    row = {"buySell": "BUY (Ca.)", "transactionType": "TradeCancel", "quantity": "-10", "ibExecID": "", "notes": "Ca"}
    taken_back = trade(**row, ibCommission="1.0035")
    anew = trade(ibCommission="0")
    found = read(tmp_path, text(trade(), taken_back, anew)).trades
    assert [(one.cancelled, one.execution.commission) for one in found] == [
        (False, Decimal("1.0035")),
        (True, Decimal("-1.0035")),  # given back
        (False, Decimal(0)),
    ]
    of_another_order = taken_back.replace("1376327563", "77")
    assert "is on line 6 too, otherwise" in fault(tmp_path, text(trade(), of_another_order, anew))


def test_what_ibkr_books_without_an_order_is_named_and_skipped(tmp_path: Path) -> None:
    exercise = trade(transactionType="BookTrade", ibExecID="", exchange="--", tradePrice="0")
    fraction = trade(transactionType="FracShare", ibExecID="", buySell="SELL", quantity="-0.276942")
    statement = read(tmp_path, text(trade(), exercise, fraction))
    assert len(statement.trades) == 1
    assert statement.skipped == ("statement.xml:7: BookTrade SPY", "statement.xml:8: FracShare SPY")
    assert "ibExecID is empty" in fault(tmp_path, text(trade(ibExecID="")))


def test_a_trade_of_another_account_than_its_statement_s_is_refused(tmp_path: Path) -> None:
    assert "accountId DU7654321 in the statement of DU1234567" in fault(tmp_path, text(trade(accountId="DU7654321")))


def test_a_statement_of_today_proves_nothing_about_today(tmp_path: Path) -> None:
    (period,) = read(tmp_path, text(trade(), fromDate="20260227", whenGenerated="2026-03-02;17:00:00")).periods
    assert (period.first, period.last) == (date(2026, 2, 27), date(2026, 3, 1))


def test_an_empty_day_is_a_statement_too(tmp_path: Path) -> None:
    assert read(tmp_path, text()).trades == ()


@pytest.mark.parametrize("name", ["ibExecID", "ibOrderID", "orderReference", "conid", "ibCommission", "dateTime"])
def test_a_field_that_the_query_lacks_is_named_with_its_setting(tmp_path: Path, name: str) -> None:
    said = fault(tmp_path, text(trade(), trade(**{name: None})))
    assert f"statement.xml:7: no {name}." in said
    assert "to the section Trades of the Flex query" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantity": "ten"}, "quantity is 'ten', no number"),
        ({"quantity": "NaN"}, "quantity is 'NaN', no number"),
        ({"quantity": "-10"}, "quantity -10 of a BUY"),
        ({"quantity": "0"}, "quantity 0 of a BUY"),
        ({"tradePrice": "0"}, "tradePrice 0"),
        ({"buySell": "HOLD"}, "buySell is 'HOLD'"),
        ({"conid": "7e5"}, "conid is '7e5', no whole number"),
        ({"dateTime": "20260302"}, "dateTime is '20260302'"),
        ({"dateTime": "03/02/2026;100500"}, "dateTime is '03/02/2026;100500'"),
        ({"dateTime": "20260231;100500"}, "dateTime is '20260231;100500', no time"),
        ({"ibExecID": ""}, "ibExecID is empty"),
    ],
)
def test_a_field_that_cannot_be_right_is_named(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    assert f"statement.xml:6: {said}." in fault(tmp_path, text(trade(**changes)))


def test_what_is_no_activity_statement_is_refused(tmp_path: Path) -> None:
    failed = "<FlexStatementResponse><Status>Fail</Status></FlexStatementResponse>"
    assert "statement.xml:1: <FlexStatementResponse>, not <FlexQueryResponse>" in fault(tmp_path, failed)
    assert "trade confirmation" in fault(tmp_path, text("<TradeConfirm />"))
    assert "a statement without Trades" in fault(tmp_path, text(trades_section=False))
    assert "Trades without executions" in fault(tmp_path, text(trade(levelOfDetail="ORDER")))
    assert "no FlexStatement" in fault(tmp_path, "<FlexQueryResponse />")
    assert "no whenGenerated" in fault(tmp_path, text(trade()).replace("whenGenerated", "made"))
    assert "statement.xml:9: no well-formed XML" in fault(tmp_path, text(trade()).replace("</FlexStatement>", ""))
    assert "no well-formed XML" in fault(tmp_path, "")
    assert "'Mars' is no time zone" in fault(tmp_path, text(trade()), time_zone="Mars")
    with pytest.raises(ConfigError, match=r"missing\.xml cannot be read: No such file"):
        read_statement(tmp_path / "missing.xml")


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE a [<!ENTITY b "c">]>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd">',
        '<!DOCTYPE a [<!ENTITY a0 "aaaaaaaaaa"><!ENTITY a1 "&a0;&a0;&a0;&a0;&a0;&a0;">]>',
    ],
)
def test_entities_and_other_document_types_are_refused(tmp_path: Path, head: str) -> None:
    assert "statement.xml:2: a document type." in fault(tmp_path, text(trade(orderReference="x"), head=head))
