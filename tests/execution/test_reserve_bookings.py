"""Fills that are booked between the broker's answer and the transaction that decides (see conftest)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.execution.market import gather
from airflow_ibkr_plugin.store.bookings import Bookings
from airflow_ibkr_plugin.trading.orders import IntentState

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Does something once, just after the broker was asked."""

    def arrange(something: Callable[[], object]) -> None:
        def gather_then(*arguments: Any, **named: Any) -> Any:
            market = gather(*arguments, **named)
            monkeypatch.setattr("airflow_ibkr_plugin.execution.reserve.gather", gather)
            something()
            return market

        monkeypatch.setattr("airflow_ibkr_plugin.execution.reserve.gather", gather_then)

    return arrange


def counted(session: Any, name: str) -> list[str]:
    asked: list[str] = []
    method = getattr(session, name)
    setattr(session, name, lambda *given: (asked.append(name), method(*given))[1])
    return asked


@both_databases
def test_a_fill_that_the_account_lacks_counts_and_the_broker_is_asked_again_only_where_it_matters(
    desk: Any, meanwhile: Any
) -> None:
    for number, (limit, times, filled) in enumerate([(1000, 1, 10), (35, 2, 5)]):
        session = desk.connect()
        accounts, quotes = counted(session, "account_snapshot"), counted(session, "quote")
        meanwhile(lambda run=f"race-{number}": desk.place(run_id=run, strategy="other"))
        request = desk.request(run_id=str(number), rules={"position_size": {"max_quantity": limit}})
        assert desk.execute(request, session).filled == filled
        assert (len(accounts), len(quotes)) == (times, 1)


def test_a_fill_that_the_account_has_already_denies_nothing(desk: Any, meanwhile: Any) -> None:
    def fill_and_die(broker: Any, perm_id: int) -> None:
        broker.fill(perm_id)
        raise KeyboardInterrupt

    desk.broker.fate = fill_and_die
    with pytest.raises(KeyboardInterrupt):
        desk.place(run_id="race", strategy="other")
    desk.broker.fate = None
    desk.let_leases_run_out("other", "race")
    meanwhile(lambda: desk.place(run_id="race", strategy="other"))  # books what the account has had since
    assert desk.place(rules={"position_size": {"max_quantity": 20}}).filled == 10


def test_where_fills_never_stop_the_worst_case_decides(desk: Any) -> None:
    runs, session = itertools.count(), desk.connect()
    account_snapshot = session.account_snapshot

    def snapshot_then_fill() -> Any:
        found = account_snapshot()
        desk.place(quantity=1, strategy="other", run_id=str(next(runs)))
        return found

    session.account_snapshot = snapshot_then_fill
    request = desk.request(quantity=12, rules={"position_size": {"max_quantity": 12}})
    outcome = desk.execute(request, session)
    assert next(runs) == 10
    assert outcome.filled == 2
    assert desk.broker.position() == 12


@both_databases
def test_bookings_are_numbered_once_each_by_account(desk: Any) -> None:
    desk.broker.fate = lambda broker, perm_id: (broker.fill(perm_id, Decimal(4)), broker.fill(perm_id))
    desk.place()
    desk.place()  # told again
    source = "simulator:second"
    desk.execute(desk.request(run_id="2", source=source), desk.connect(source=source))
    with desk.database.read() as transaction:
        bookings = Bookings(transaction, "simulator:any", desk.session.account)
        assert bookings.last() == 4
        assert [late.remaining for late in bookings.since(1)] == [6, 4, 6]
        assert bookings.since(4) == ()
        assert Bookings(transaction, "paper:any", desk.session.account).last() == 0


def test_late_fills_are_no_open_orders(desk: Any, meanwhile: Any) -> None:
    meanwhile(lambda: desk.place(run_id="race", strategy="other"))
    assert desk.place(rules={"open_orders": {"max_account": 1}}).state is IntentState.FILLED
