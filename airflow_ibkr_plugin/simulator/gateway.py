"""The gateway's world: clock, contracts, prices, book and portfolio, put together from its options."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.account.funds import START_CASH, account_codes, check_currencies
from airflow_ibkr_plugin.simulator.account.money import RATE_UNIT
from airflow_ibkr_plugin.simulator.account.portfolio import Portfolio
from airflow_ibkr_plugin.simulator.account.splits import Split, dump_splits, load_splits
from airflow_ibkr_plugin.simulator.api.meter import RATE
from airflow_ibkr_plugin.simulator.clock import Clock
from airflow_ibkr_plugin.simulator.control.faults import Faults
from airflow_ibkr_plugin.simulator.link import Link
from airflow_ibkr_plugin.simulator.market.access import MarketDataAccess
from airflow_ibkr_plugin.simulator.market.catalogue import Catalogue, Instrument, synthetic
from airflow_ibkr_plugin.simulator.market.crosses import synthetic_days
from airflow_ibkr_plugin.simulator.market.days import RecordedDays
from airflow_ibkr_plugin.simulator.market.hours import eastern_day
from airflow_ibkr_plugin.simulator.market.prices import Market, Quote
from airflow_ibkr_plugin.simulator.market.replay import load_replay
from airflow_ibkr_plugin.simulator.orders.book import Book, Execution, Order
from airflow_ibkr_plugin.simulator.state import StateStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a simulator is started with. Ports: 0 picks a free one, None leaves it out.

    :param state: file that keeps orders, executions and the clock. :param replay: folder of recorded bars.
    :param clock: where the simulated clock starts, aware UTC; None: real time.
    :param cash: what the account starts with, by currency; None: 1,000,000 of the base currency.
    :param base_currency: what totals and margins are stated in.
    :param clock_speed: simulated seconds in a real one.
    :param message_rate: messages a second that a client may send; 0: any number.
    :param restart_at: New York time of the nightly restart; None: there is none.
    :param restart_seconds: real seconds for which the API port is closed during a restart.
    :param tif_notice: an order without a time in force is answered by 10349, as by gateways since the end of 2025.
    :param ibc_verbose: the IBC command server writes a prompt and INFO lines.
    """

    host: str = "127.0.0.1"
    port: int = 4002
    control_port: int | None = None
    ibc_port: int | None = None
    seed: int = 7
    account: str = "DU1234567"
    state: Path | None = None
    replay: Path | None = None
    clock: datetime | None = None
    clock_speed: float = 1.0
    message_rate: int = RATE
    restart_at: time | None = None
    restart_seconds: float = 0.0
    ibc_verbose: bool = False
    tif_notice: bool = False
    cash: Mapping[str, Decimal] | None = None
    base_currency: str = "USD"


class Gateway:
    """Everything but sockets. Used from one thread."""

    def __init__(self, options: Options) -> None:
        """Load the contracts, and the state if there is one.

        :raises ConfigError: replay or state files that cannot be used.
        """
        self.options = options
        self.accounts = account_codes(options.account)
        self.clock = Clock()
        self.faults = Faults()
        self.link = Link()
        self.market = Market()
        self.access = MarketDataAccess()
        self.book = Book()
        self.base_currency = options.base_currency
        self.start_cash = dict(options.cash or {options.base_currency: START_CASH})
        self.portfolios = {code: Portfolio(self.start_cash) for code in self.accounts}
        self.splits: list[Split] = []
        self.store = StateStore(options.state) if options.state is not None else None
        try:
            self.catalogue = self._load_contracts()
            check_currencies(self)
            if self.store is not None:
                self._restore(self.store)
            self._start_clock()
        except ConfigError:
            if self.store is not None:
                self.store.close()
            raise

    def _load_contracts(self) -> Catalogue:
        options = self.options
        last_year = max(datetime.now(UTC).year, options.clock.year if options.clock else 0)
        instruments = synthetic(last_year)
        for instrument, days in synthetic_days(instruments, options.seed):
            self.market.add(instrument, days)
        if options.replay is not None:
            for instrument, recorded in load_replay(options.replay, last_year):
                self.market.add(instrument, RecordedDays(recorded))
                instruments.append(instrument)
        return Catalogue(instruments)

    @property
    def account(self) -> str:
        """The only account, or the first one."""
        return self.accounts[0]

    def code(self, account: str) -> str:
        """The account that is meant, where none has to be named because there is only one."""
        return account or self.account

    def portfolio_of(self, account: str) -> Portfolio:
        """The portfolio of an account; of the only one, if none is named."""
        return self.portfolios[self.code(account)]

    @property
    def today(self) -> date:
        """The broker's day."""
        return eastern_day(self.clock.time())

    def instrument(self, con_id: int) -> Instrument:
        """A contract that orders or positions name.

        :raises ConfigError: the state names one that the catalogue no longer has.
        """
        known = self.catalogue.get(con_id)
        if known is None:
            raise ConfigError(
                f"The state holds orders of conId {con_id}, which is not in the catalogue.",
                remedy="Start with the same --replay as before, or with a new --state.",
            )
        return known

    def quote(self, instrument: Instrument) -> Quote | None:
        """What the market shows now."""
        return self.market.quote(instrument, self.clock.time())

    def last_price(self, instrument: Instrument, moment: float | None = None) -> Decimal:
        """The price that positions are valued at, now or at that moment; 0 before the instrument's first session."""
        last = self.market.last(instrument, self.clock.time() if moment is None else moment)
        return Decimal(repr(last)) if last is not None else Decimal(0)

    def rate(self, currency: str, moment: float | None = None) -> Decimal:
        """What one unit of the currency is worth in the base currency, now or at that moment, to 8 decimals.

        It is the price of their pair in the catalogue; where there is none, it goes by way of USD.

        :raises ConfigError: no pair prices it.
        """
        return self._cross(currency, self.base_currency, moment).quantize(RATE_UNIT)

    def _cross(self, currency: str, wanted: str, moment: float | None) -> Decimal:
        if currency == wanted:
            return Decimal(1)
        direct = self.catalogue.pair(currency, wanted)
        if direct is not None:
            return self.last_price(direct, moment)
        inverse = self.catalogue.pair(wanted, currency)
        if inverse is not None:
            return 1 / self.last_price(inverse, moment)
        if "USD" in (currency, wanted):
            raise ConfigError(
                f"No currency pair prices {currency} in {wanted}.",
                remedy="Use the currencies that docs/simulator-money.md lists.",
            )
        return self._cross(currency, "USD", moment) * self._cross("USD", wanted, moment)

    def split(self, instrument: Instrument, ratio: Decimal) -> None:
        """Split a stock into `ratio` new shares for each: its prices, past ones too, and the position.

        Fractions of a share are paid out at the last price.
        """
        self.market.split(instrument, float(ratio))
        price = self.last_price(instrument)
        self.splits.append(Split(instrument.con_id, ratio, price, self.today, self.book.execution_count))
        self._book_split(self.splits[-1])
        if self.store is not None:
            self.store.put("splits", dump_splits(self.splits))

    def _book_split(self, split: Split) -> None:
        currency = self.instrument(split.con_id).currency
        for portfolio in self.portfolios.values():
            portfolio.split(split.con_id, split.ratio, split.price, split.day, currency)

    def save_order(self, order: Order) -> None:
        """Keep an order's new state."""
        if self.store is not None:
            self.store.save_order(order)

    def save_execution(self, execution: Execution) -> None:
        """Keep a fill."""
        if self.store is not None:
            self.store.add_execution(execution)

    def save_clock(self) -> None:
        """Keep the clock."""
        if self.store is not None:
            self.store.put("clock", self.clock.dump())

    def commit(self) -> None:
        """Make everything kept so far durable; nothing is acknowledged before.

        :raises sqlite3.Error: the state file does not take it.
        """
        if self.store is not None:
            self.store.commit()

    def _restore(self, store: StateStore) -> None:
        cash = {currency: str(amount) for currency, amount in self.start_cash.items()}
        made_with = {"seed": self.options.seed, "account": self.options.account, "cash": cash}
        made_with |= {"base": self.base_currency}
        before = store.get("options")
        if before not in (None, made_with):
            raise ConfigError(
                f"The state file {store.path} was made with {before}, not with {made_with}.",
                remedy="Start with the same options, or with a new file.",
            )
        store.put("options", made_with)
        for order in store.orders():
            self.instrument(order.con_id)
            self.book.add(order, eastern_day(order.ended) if order.ended is not None else None)
        self.splits = load_splits(store.get("splits") or ())
        waiting = list(self.splits)
        for execution in store.executions():
            while waiting and waiting[0].after == self.book.execution_count:
                self._book_split(waiting.pop(0))
            self.book.add_execution(execution)
            self.portfolio_of(execution.account).apply(execution, self.instrument(execution.con_id))
        for split in waiting:
            self._book_split(split)
        for split in self.splits:
            self.market.split(self.instrument(split.con_id), float(split.ratio))
        saved = store.get("clock")
        if saved is not None:
            self.clock.load(saved)
        log.info("restored %d orders and %d executions", len(self.book), self.book.execution_count)

    def _start_clock(self) -> None:
        wanted = self.options.clock
        if wanted is not None:
            if wanted.timestamp() >= self.book.last_time:
                self.clock.set(wanted)
            else:
                # Time never runs back behind what has been traded.
                log.warning("--clock %s is before the last event in the state; the stored clock goes on", wanted)
        if self.options.clock_speed != 1.0:
            self.clock.run_at(self.options.clock_speed)
        if self.clock.time() < self.book.last_time:
            self.clock.set(datetime.fromtimestamp(self.book.last_time, UTC))
        self.save_clock()
        self.commit()
