"""Fills in any order, twice, corrected; commissions before and after; splits: the books stay what they add up to."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import AdjustmentKind, OrderIntent, PositionAdjustment
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import Execution, IntentKey, OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.reconcile import Result

SOURCE, ACCOUNT, SPY = "simulator:ibkr_default", "DU1", 756733
NOW = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
STRATEGIES = ("one", "two")
CENT = Decimal("0.01")


@dataclass(frozen=True)
class Split:
    strategy: str
    ratio: Fraction
    at: datetime


class Books(RuleBasedStateMachine):
    """The stored books beside a list of what happened, newest version of each fill."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ibkr-books-"))
        self.database = Database(f"sqlite:///{shutil.copy(self.template, self.folder / 'trading.db')}")
        self.fills: dict[str, tuple[str, Execution]] = {}
        self.splits: list[Split] = []
        self.intents: dict[str, OrderIntent] = {}

    @initialize()
    def orders(self) -> None:
        with self.database.write() as session:
            for strategy in STRATEGIES:
                key = IntentKey(installation="i", dag_id=strategy, run_id="r", task_id="o", con_id=SPY)
                instrument = Instrument(symbol="SPY", con_id=SPY, min_tick=CENT).to_dict()
                self.intents[strategy], _ = Intents(session).get_or_create(
                    key,
                    strategy=strategy,
                    source=SOURCE,
                    account=ACCOUNT,
                    mode="paper",
                    symbol="SPY",
                    instrument=instrument,
                    side=Side.BUY,
                    quantity=Decimal(10),
                    requested_quantity=Decimal(10),
                    order_type=OrderType.MARKET,
                    tif=TimeInForce.DAY,
                    currency="USD",
                    created_at=NOW,
                )

    def teardown(self) -> None:
        self.database.dispose()
        shutil.rmtree(self.folder)

    def book(self, strategy: str, fill: Execution) -> None:
        with self.database.write() as session:
            row, _ = Executions(session).record(SOURCE, fill, self.intents[strategy], NOW)
            Positions(session).apply(row, strategy, at=NOW)

    @rule(
        strategy=st.sampled_from(STRATEGIES),
        side=st.sampled_from(Side),
        quantity=st.integers(1, 200),
        cents=st.integers(100, 90_000),
        minute=st.integers(0, 300),
        commission=st.one_of(st.none(), st.integers(-50, 500)),
        currency=st.sampled_from(["USD", "USD", "EUR"]),
    )
    def a_fill(
        self,
        strategy: str,
        side: Side,
        quantity: int,
        cents: int,
        minute: int,
        commission: int | None,
        currency: str,
    ) -> None:
        number = len(self.fills)
        fill = Execution(
            exec_id=f"{number:08}.01",
            order_ref=f"aip-{strategy}",
            account=ACCOUNT,
            con_id=SPY,
            symbol="SPY",
            side=side,
            quantity=Decimal(quantity),
            price=cents * CENT,
            time=NOW + timedelta(minutes=minute),
            perm_id=1,
            order_id=1,
            client_id=1,
            commission=None if commission is None else commission * CENT,
            commission_currency="" if commission is None else currency,
        )
        self.book(strategy, fill)
        self.fills[f"{number:08}"] = (strategy, fill)

    @precondition(lambda self: self.fills)
    @rule(data=st.data())
    def the_same_again(self, data: st.DataObject) -> None:
        strategy, fill = self.fills[data.draw(st.sampled_from(sorted(self.fills)))]
        self.book(strategy, replace(fill, commission=None, commission_currency=""))

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), cents=st.integers(0, 300))
    def a_late_commission(self, data: st.DataObject, cents: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.fills)))
        strategy, fill = self.fills[name]
        told = replace(fill, commission=cents * CENT, commission_currency="USD")
        self.book(strategy, told)
        if fill.commission is None:
            self.fills[name] = (strategy, told)

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), quantity=st.integers(1, 200), cents=st.integers(100, 90_000), old_again=st.booleans())
    def a_correction(self, data: st.DataObject, quantity: int, cents: int, old_again: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.fills)))
        strategy, fill = self.fills[name]
        version = int(fill.exec_id.rpartition(".")[2]) + 1
        corrected = replace(fill, exec_id=f"{name}.{version:02}", quantity=Decimal(quantity), price=cents * CENT)
        self.book(strategy, corrected)
        if old_again:
            self.book(strategy, fill)
        self.fills[name] = (strategy, corrected)

    @precondition(lambda self: len(self.splits) < 3)
    @rule(
        strategy=st.sampled_from(STRATEGIES),
        ratio=st.sampled_from([Fraction(2), Fraction(1, 2), Fraction(4), Fraction(5, 2)]),
        minute=st.integers(0, 300),
    )
    def a_split(self, strategy: str, ratio: Fraction, minute: int) -> None:
        at = NOW + timedelta(minutes=minute, seconds=30)
        with self.database.write() as session:
            made = Reconciliations(session, SOURCE, ACCOUNT).add(Result.AGREE, at=NOW, made_by="test")
            adjustment = PositionAdjustment(
                kind=AdjustmentKind.SPLIT,
                source=SOURCE,
                account=ACCOUNT,
                strategy=strategy,
                con_id=SPY,
                new_shares=Decimal(ratio.numerator),
                old_shares=Decimal(ratio.denominator),
                paid_out=Decimal(0),
                price=Decimal(0),
                currency="USD",
                at=at,
                made_by="test",
                reason="",
                reconciliation_id=made.id,
            )
            session.add(adjustment)
            row = Positions(session).get(SOURCE, ACCOUNT, strategy, SPY)
            if row is not None:
                Positions(session).add_up_again(row, at=NOW)
        self.splits.append(Split(strategy, ratio, at))

    @invariant()
    def the_books_are_what_happened(self) -> None:
        with self.database.read() as session:
            found = replay(session)
            rows = {row.strategy: row for row in Positions(session).list()}
        assert found.mismatches == ()
        assert found.fills == len(self.fills)
        for strategy in STRATEGIES:
            mine = [fill for owner, fill in self.fills.values() if owner == strategy]
            if not mine:
                continue
            row = rows[strategy]
            assert row.realized_pnl is not None
            assert Fraction(row.quantity) == self._quantity(strategy, mine)
            paid = sum((f.side.sign * f.quantity * f.price for f in mine), Decimal(0))
            paid += sum((f.commission or Decimal(0) for f in mine if f.commission_currency == "USD"), Decimal(0))
            assert abs(row.realized_pnl - row.quantity * row.average_cost + paid) < CENT
        for currency in ("USD", "EUR"):
            told = [f.commission for _, f in self.fills.values() if f.commission_currency == currency]
            assert found.commissions.get(currency, Decimal(0)) == sum(filter(None, told), Decimal(0))

    def _quantity(self, strategy: str, mine: list[Execution]) -> Fraction:
        total = Fraction(0)
        for fill in mine:
            later = [split.ratio for split in self.splits if split.strategy == strategy and split.at > fill.time]
            part = Fraction(fill.side.sign * fill.quantity)
            for ratio in later:
                part *= ratio
            total += part
        return total


def test_books(migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(Books, "template", migrated_sqlite, raising=False)
    run_state_machine_as_test(
        Books,
        settings=settings(max_examples=15, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )
