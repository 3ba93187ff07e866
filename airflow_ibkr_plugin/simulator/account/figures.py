"""What the account is worth. Every figure derives from cash, positions and last prices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.simulator.account.margin import currency_margin, reg_t_margin, stock_margin
from airflow_ibkr_plugin.simulator.account.money import RATE_UNIT, ZERO, cents
from airflow_ibkr_plugin.simulator.account.portfolio import Position
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument


@dataclass(frozen=True)
class Holding:
    """A position valued at the last price, in the instrument's currency; average cost as IBKR states it.

    :param realized: today's.
    """

    instrument: Instrument
    quantity: Decimal
    price: Decimal
    value: Decimal
    average_cost: Decimal
    unrealized: Decimal
    realized: Decimal

    def wire(self, account: str) -> dict[str, Any]:
        """Fields of a portfolioValue message."""
        return self.instrument.wire() | {
            "primaryExchange": self.instrument.primary_exchange or self.instrument.exchange,
            "position": self.quantity,
            "marketPrice": self.price,
            "marketValue": self.value,
            "averageCost": self.average_cost,
            "unrealizedPNL": self.unrealized,
            "realizedPNL": self.realized,
            "account": account,
        }


@dataclass
class Ledger:
    """The account in one currency.

    :param rate: of the base currency for one unit. :param stock: value of stocks, short ones negative; `gross`: all
        positive. :param realized: today's profit, after commissions. :param unrealized: with that of currency pairs.
    """

    currency: str
    rate: Decimal
    cash: Decimal = ZERO
    stock: Decimal = ZERO
    gross: Decimal = ZERO
    realized: Decimal = ZERO
    unrealized: Decimal = ZERO
    margin: Decimal = ZERO
    reg_t: Decimal = ZERO


@dataclass(frozen=True)
class Figures:
    """The account in its base currency."""

    cash: Decimal
    stock_value: Decimal
    gross: Decimal
    initial_margin: Decimal
    maintenance_margin: Decimal
    reg_t_margin: Decimal
    realized: Decimal
    unrealized: Decimal

    @property
    def equity(self) -> Decimal:
        """Net liquidation value, which is the equity with loan value too."""
        return self.cash + self.stock_value

    @property
    def available(self) -> Decimal:
        """What is left of the equity after the initial margin."""
        return self.equity - self.initial_margin

    @property
    def excess(self) -> Decimal:
        """What is left of the equity after the maintenance margin."""
        return self.equity - self.maintenance_margin


def holding(gateway: Gateway, con_id: int, account: str = "") -> Holding:
    """One position, valued. Here and below, an account that is not named is the only one."""
    instrument = gateway.instrument(con_id)
    position = gateway.portfolio_of(account).positions.get(con_id, Position())
    price = gateway.last_price(instrument)
    value = cents(position.quantity * price)
    return Holding(
        instrument,
        position.quantity,
        price,
        value,
        position.average_cost.quantize(RATE_UNIT),
        value - position.cost,
        position.traded(gateway.today).realized,
    )


def figures(gateway: Gateway, changed: Mapping[int, Decimal] | None = None, account: str = "") -> Figures:
    """The account now; with `changed` (conId to signed shares) as if those had been bought at the last price."""
    return in_base(ledgers(gateway, changed, account))


def ledgers(gateway: Gateway, changed: Mapping[int, Decimal] | None = None, account: str = "") -> list[Ledger]:
    """The account by currency: the base currency, and each that the account has or had anything in."""
    changes, portfolio = changed or {}, gateway.portfolio_of(account)
    books = _Books(gateway)
    for currency, amount in portfolio.cash.items():
        books[currency].cash += amount
    for con_id in {*portfolio.positions, *changes}:
        held = holding(gateway, con_id, account)
        book = books[held.instrument.currency]
        book.realized += held.realized
        book.unrealized += held.unrealized
        shares = changes.get(con_id, ZERO)
        paid = cents(shares * held.price)
        book.cash -= paid
        if held.instrument.is_forex:
            books[held.instrument.symbol].cash += shares
            fees = portfolio.positions.get(con_id, Position()).traded(gateway.today)
            if fees.fees:
                books[fees.fee_currency].realized -= fees.fees
        else:
            _add_stock(book, held, held.quantity + shares, held.value + paid)
    return [books.by_currency[currency] for currency in sorted(books.by_currency)]


def in_base(books: Iterable[Ledger]) -> Figures:
    """The account in its base currency: each ledger's amounts, converted and rounded, and the margin of debts."""
    books = list(books)

    def total(amount: Callable[[Ledger], Decimal]) -> Decimal:
        return sum((cents(amount(book) * book.rate) for book in books), ZERO)

    worth = {book.currency: cents(book.cash * book.rate) + cents(book.stock * book.rate) for book in books}
    debt_initial, debt_maintenance = currency_margin(worth)
    margin = total(lambda book: book.margin)
    return Figures(
        cash=total(lambda book: book.cash),
        stock_value=total(lambda book: book.stock),
        gross=total(lambda book: book.gross),
        initial_margin=margin + debt_initial,
        maintenance_margin=margin + debt_maintenance,
        reg_t_margin=total(lambda book: book.reg_t),
        realized=total(lambda book: book.realized),
        unrealized=total(lambda book: book.unrealized),
    )


class _Books:
    """Ledgers by currency, each made when it is first asked for."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.by_currency: dict[str, Ledger] = {}
        self[gateway.base_currency]

    def __getitem__(self, currency: str) -> Ledger:
        if currency not in self.by_currency:
            self.by_currency[currency] = Ledger(currency, self._gateway.rate(currency))
        return self.by_currency[currency]


def _add_stock(book: Ledger, held: Holding, quantity: Decimal, value: Decimal) -> None:
    book.stock += value
    book.gross += abs(value)
    book.margin += stock_margin(quantity, held.price, value, book.currency)
    book.reg_t += reg_t_margin(value)
