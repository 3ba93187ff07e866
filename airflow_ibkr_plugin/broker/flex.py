"""IBKR's Flex statements: executions of days that the gateway does not tell of any more.

An Activity Flex query as XML, its section Trades with the option Executions. Field names are those of IBKR's reporting
reference, "Trades"; `ibExecID` is the execId of the API, and `ibOrderID` its permId.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.trading.instruments import SecType
from airflow_ibkr_plugin.trading.orders import Execution, Side

#: The setting of a Flex query that has them, by attribute.
_NAMES = {
    "conid": "Conid",
    "symbol": "Symbol",
    "assetCategory": "Asset Class",
    "currency": "Currency",
    "buySell": "Buy/Sell",
    "quantity": "Quantity",
    "tradePrice": "Trade Price",
    "dateTime": "Date/Time",
    "ibExecID": "IB Execution ID",
    "ibOrderID": "IB Order ID",
    "orderReference": "Order Reference",
    "ibCommission": "IB Commission",
    "ibCommissionCurrency": "IB Commission Currency",
}
_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")
_DATE_TIME = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})[;, T]+(\d{2}):?(\d{2}):?(\d{2})")
# A row that takes a trade back has (Ca.) behind its side, the sign of its quantity turned, and the code Ca.
_CANCELLED = "(Ca.)"
_CANCELLED_CODE = "Ca"
# What IBKR books by itself, such as exercises and fractions of shares, is of no order and has no execId.
_BY_ORDERS = ("", "ExchTrade", "TradeCancel", "TradeCorrect")


@dataclass(frozen=True, kw_only=True)
class FlexTrade:
    """One execution of a statement.

    :param line: where it stands in the file. :param execution: client id -1 and order id 0, which no statement has.
        Its commission is > 0 where it was paid, its profit IBKR's by first in, first out; None where it opened.
    :param cancelled: IBKR takes a trade with these figures back. Its execId may be '', its commission is what is given
        back, < 0. Where the trade is booked anew, that row follows, under the same execId perhaps.
    """

    line: int
    execution: Execution
    currency: str
    sec_type: SecType
    cancelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Period:
    """The days, both included, that a statement tells everything of for one account."""

    account: str
    first: date
    last: date


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A Flex statement, trades as IBKR ordered them; `skipped` names those of kinds that are not traded here."""

    name: str
    periods: tuple[Period, ...]
    trades: tuple[FlexTrade, ...]
    skipped: tuple[str, ...] = ()


def read_statement(path: Path, *, time_zone: str = "America/New_York") -> Statement:
    """Read a statement.

    :param time_zone: IANA zone of its times; IBKR writes none. A time that a change of clocks repeats is the first.
    :raises ConfigError: it cannot be read, is no such statement, lacks a field or has one that cannot be right; names
        file, line, field and remedy. A document type is refused, and with it entities of any kind.
    """
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(f"{time_zone!r} is no time zone.", remedy="Write it as America/New_York.") from error
    reader = _Reader(path.name, zone)
    try:
        with path.open("rb") as file:
            reader.parser.ParseFile(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", remedy="Check path and rights.") from error
    except expat.ExpatError as error:
        raise ConfigError(
            f"{path.name}:{error.lineno}: no well-formed XML: {expat.ErrorString(error.code)}.",
            remedy="Get the statement again, as XML.",
        ) from error
    return reader.statement()


@dataclass
class _Reader:
    name: str
    zone: ZoneInfo
    parser: expat.XMLParserType = field(default_factory=expat.ParserCreate)
    path: list[str] = field(default_factory=list)
    account: str = ""
    periods: list[Period] = field(default_factory=list)
    sections: int = 0
    summaries: int = 0
    trades: list[FlexTrade] = field(default_factory=list)
    #: By execId, unless a trade of the order was taken back since: then IBKR may book it anew under the same execId.
    told: dict[str, FlexTrade] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = lambda _: self.path.pop()
        # Without a document type there are no entities, so none that grow or reach for files.
        self.parser.StartDoctypeDeclHandler = lambda *_: self._fail("a document type", "Use the file as IBKR gave it.")

    def statement(self) -> Statement:
        if not self.periods:
            self._fail("no FlexStatement", "Use an Activity Flex query.")
        if self.sections < len(self.periods):
            self._fail("a statement without Trades", "Add the section Trades to the Flex query, with Executions.")
        if self.summaries and not self.trades and not self.skipped:
            self._fail("Trades without executions", "Choose the option Executions of the section Trades.")
        return Statement(
            name=self.name,
            periods=tuple(self.periods),
            trades=tuple(self.trades),
            skipped=tuple(self.skipped),
        )

    def _fail(self, what: str, remedy: str) -> NoReturn:
        raise ConfigError(f"{self.name}:{self.parser.CurrentLineNumber}: {what}.", remedy=remedy)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.path and tag != "FlexQueryResponse":
            self._fail(f"<{tag}>, not <FlexQueryResponse>", "Use an Activity Flex query, as XML.")
        self.path.append(tag)
        if tag == "FlexStatement":
            self._period(attributes)
        elif tag == "Trades":
            self.sections += 1
        elif tag == "TradeConfirm":
            self._fail("a trade confirmation", "Use an Activity Flex query.")
        elif tag == "Trade":
            self._trade(attributes)

    def _period(self, attributes: Mapping[str, str]) -> None:
        first, last = (self._date(attributes, name) for name in ("fromDate", "toDate"))
        made = self._date(attributes, "whenGenerated")
        # What was made on its last day may lack fills of that day, and proves nothing about it.
        if made <= last:
            last = date.fromordinal(made.toordinal() - 1)
        self.account = self._text(attributes, "accountId")
        self.periods.append(Period(account=self.account, first=first, last=last))

    def _trade(self, attributes: Mapping[str, str]) -> None:
        level = attributes.get("levelOfDetail", "EXECUTION")
        if level != "EXECUTION":
            self.summaries += 1
            return
        category, line = self._text(attributes, "assetCategory"), self.parser.CurrentLineNumber
        kind = attributes.get("transactionType", "")
        if category in tuple(SecType) and kind not in _BY_ORDERS and not attributes.get("ibExecID"):
            category = kind
        if category not in tuple(SecType):
            self.skipped.append(f"{self.name}:{line}: {category} {attributes.get('symbol', '')}")
            return
        trade = self._read(attributes, SecType(category), line)
        fill = trade.execution
        if trade.cancelled:
            order = fill.perm_id
            self.told = {exec_id: one for exec_id, one in self.told.items() if one.execution.perm_id != order}
        elif known := self.told.setdefault(fill.exec_id, trade):
            if known.execution != fill:
                self._fail(f"ibExecID {fill.exec_id} is on line {known.line} too, otherwise", _AS_GIVEN)
            if known is not trade:
                return
        self.trades.append(trade)

    def _read(self, attributes: Mapping[str, str], sec_type: SecType, line: int) -> FlexTrade:
        side_text = self._text(attributes, "buySell")
        side = self._side(side_text)
        quantity, price = self._number(attributes, "quantity"), self._number(attributes, "tradePrice")
        codes = attributes.get("notes", "").split(";")
        cancelled = (
            _CANCELLED in side_text
            or attributes.get("transactionType") == "TradeCancel"
            or _CANCELLED_CODE in (code.strip() for code in codes)
        )
        if not quantity or (quantity * side.sign < 0 and not cancelled):
            self._fail(f"quantity {quantity} of a {side}", _AS_GIVEN)
        if price <= 0:
            self._fail(f"tradePrice {price}", _AS_GIVEN)
        opened = attributes.get("openCloseIndicator") == "O" or "fifoPnlRealized" not in attributes
        execution = Execution(
            exec_id=self._text(attributes, "ibExecID", empty=cancelled),
            order_ref=self._text(attributes, "orderReference", empty=True),
            account=self._account(attributes),
            con_id=self._whole(attributes, "conid"),
            symbol=self._text(attributes, "symbol"),
            side=side,
            quantity=abs(quantity),
            price=price,
            time=self._time(attributes),
            perm_id=self._whole(attributes, "ibOrderID"),
            order_id=0,
            client_id=-1,
            exchange=attributes.get("exchange", ""),
            commission=-self._number(attributes, "ibCommission") + 0,
            commission_currency=self._text(attributes, "ibCommissionCurrency"),
            realized_pnl=None if opened else self._number(attributes, "fifoPnlRealized"),
        )
        return FlexTrade(
            line=line,
            execution=execution,
            currency=self._text(attributes, "currency"),
            sec_type=sec_type,
            cancelled=cancelled,
        )

    # --- fields -------------------------------------------------------------------------------------------

    def _text(self, attributes: Mapping[str, str], name: str, *, empty: bool = False) -> str:
        value = attributes.get(name)
        if value is None or not (value or empty):
            label = _NAMES.get(name)
            remedy = f"Add the field {label} to the section Trades of the Flex query." if label else _AS_GIVEN
            self._fail(f"no {name}" if value is None else f"{name} is empty", remedy)
        return value

    def _account(self, attributes: Mapping[str, str]) -> str:
        account = attributes.get("accountId") or self.account
        if account != self.account:
            self._fail(f"accountId {account} in the statement of {self.account}", _AS_GIVEN)
        return account

    def _side(self, text: str) -> Side:
        word = text.replace(_CANCELLED, "").strip()
        if word not in tuple(Side):
            self._fail(f"buySell is {text!r}", _AS_GIVEN)
        return Side(word)

    def _number(self, attributes: Mapping[str, str], name: str) -> Decimal:
        text = self._text(attributes, name)
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite():
            self._fail(f"{name} is {text!r}, no number", _AS_GIVEN)
        return value

    def _whole(self, attributes: Mapping[str, str], name: str) -> int:
        text = self._text(attributes, name)
        if not (text.isascii() and text.isdigit()):
            self._fail(f"{name} is {text!r}, no whole number", _AS_GIVEN)
        return int(text)

    def _date(self, attributes: Mapping[str, str], name: str) -> date:
        text = self._text(attributes, name)
        found = _DATE.match(text)
        try:
            return date(*map(int, found.groups())) if found else self._fail(f"{name} is {text!r}", _FORMAT)
        except ValueError:
            self._fail(f"{name} is {text!r}, no date", _AS_GIVEN)

    def _time(self, attributes: Mapping[str, str]) -> datetime:
        text = self._text(attributes, "dateTime")
        found = _DATE_TIME.fullmatch(text.strip())
        if found is None:
            self._fail(f"dateTime is {text!r}", _FORMAT)
        try:
            year, month, day, hour, minute, second = map(int, found.groups())
            local = datetime(year, month, day, hour, minute, second, tzinfo=self.zone)
        except ValueError:
            self._fail(f"dateTime is {text!r}, no time", _AS_GIVEN)
        return local.astimezone(UTC)


_AS_GIVEN = "Get the statement again, and use it as IBKR gave it."
_FORMAT = "Choose yyyyMMdd and HHmmss as formats of the Flex query, with date and time."
