"""One simulated gateway, one trading database, and tries of the order task forked from here."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import exchange_calendars
from boundaries import Boundaries, Trigger
from cases import CRASH, LIVES, SCENARIOS, Case, Clean, Kill, Scenario
from forks import Child, warm_up
from gateway import Gateway
from sqlalchemy import update

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.truth import DEAD_STATUSES, TERMINAL_STATUSES
from airflow_ibkr_plugin.cli.halt import halt
from airflow_ibkr_plugin.errors import Family
from airflow_ibkr_plugin.hooks.ibkr import IBKRHook
from airflow_ibkr_plugin.operators.order import OrderOperator
from airflow_ibkr_plugin.store.database import installation_id, open_database
from airflow_ibkr_plugin.store.models import ClientLease, LeaderRow, OrderIntent
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey
from airflow_ibkr_plugin.trading.trading_state import TradingState

TASK_ID = "order"
TRIES = 12
# A Monday, half an hour into the session; every day of the suite begins at that time.
CLOCK = "2026-03-02T15:00:00+00:00"
_BACK_OFF_SECONDS = 0.25
# Commands about an order that the broker has to have first.
_ABOUT_ORDER = ("error", "completed_order")


@dataclass(frozen=True)
class TaskInstance:
    """What the operator reads of Airflow's task instance: who it is, and what the signal task returned."""

    run_id: str
    try_number: int
    upstream: dict[str, Any]
    dag_id: str
    task_id: str = TASK_ID
    map_index: int = -1

    def xcom_pull(self, **_: Any) -> dict[str, Any]:
        return self.upstream


class Floor:
    """Warm: all that a try needs is imported before the first fork, and nothing is connected."""

    def __init__(self, gateway: Gateway, log: Path) -> None:
        self.gateway = gateway
        self.day = datetime.fromisoformat(CLOCK)
        self._days = _days()
        self._log = log
        warm_up()
        self.database = open_database()
        with self.database.write() as transaction:
            self.installation = installation_id(transaction)
        self._instruments: dict[str, Instrument] = {}
        self.passed: dict[str, Clean] = {}
        self._clean_ones = itertools.count(1)

    def next_day(self) -> None:
        """A new day at the broker, which tells nothing of the days before."""
        self.day = next(self._days)
        self.gateway.control(cmd="clock", set=self.day.isoformat())

    def begin_day(self) -> None:
        """A new day, whose first order ends well; on the first one, one of each scenario."""
        self.next_day()
        for scenario in SCENARIOS[: 1 if self.passed else None]:
            self.passed[scenario.name] = self._clean(scenario)

    def clean_of(self, scenario: Scenario) -> Clean:
        """What it passes; where it was not measured, what a limit order does."""
        return self.passed.get(scenario.name, self.passed["limit"])

    def instrument(self, symbol: str) -> Instrument:
        if symbol not in self._instruments:
            self._instruments[symbol] = Instrument.from_dict(self.do(lambda: _resolve(symbol)))
        return self._instruments[symbol]

    def order_ref(self, case: Case) -> str:
        return self._key(case).order_ref

    def _key(self, case: Case) -> IntentKey:
        con_id = self.instrument(case.scenario.symbol).con_id
        return IntentKey(
            installation=self.installation, dag_id=case.strategy, run_id=case.run_id, task_id=TASK_ID, con_id=con_id
        )

    def told_by_broker(self) -> dict[str, Any]:
        """The day's executions and the positions, asked for by a session."""
        told: dict[str, Any] = self.do(ask_books)
        return told

    def run(self, case: Case) -> tuple[int, dict[str, Any]]:
        """Tries as Airflow makes them, until one returns or fails for good; how many were killed, and the last one."""
        clean = self.clean_of(case.scenario)
        self._arm(case)
        killed, told = 0, dict[str, Any]()
        for number in range(1, TRIES + 1):
            kill = case.kills[number - 1] if number <= len(case.kills) else LIVES
            first = number == 1
            children = [self.attempt(case, number, kill, case.fault.triggers if first else ())]
            if first and case.twice:
                children.append(self.attempt(case, number, LIVES))
            ends = [children[0].finish(kill.seconds(clean)), *(child.finish() for child in children[1:])]
            if first:
                self._mend(case)
            if any("killed" in end for end in ends):
                killed += 1
                self.let_leases_run_out()
            # Airflow goes on where one of two was killed; what the other said is as good as the last word.
            told = next((end for end in ends if "done" in end), ends[0])
            if first and case.fault.all_cancelled and "done" not in told:
                self.do(cancel_all_by_hand)
            if "done" in told or ("family" in told and told["family"] not in (Family.RETRY, Family.RETRY_AFTER)):
                break
            if "family" in told:
                time.sleep(_BACK_OFF_SECONDS)
        self.gateway.control(cmd="disarm")
        return killed, told

    def close(self, strategy: str) -> str:
        """Cancel what works of a strategy and close what it holds, as a person does; '0' if that is done."""
        return str(self.do(partial(close_all, strategy)))

    def let_leases_run_out(self, of: str = "%") -> None:
        """What two minutes of waiting would do for the leases of dead processes.

        :param of: a pattern of their names.
        """
        now = datetime.now(UTC)
        with self.database.write() as transaction:
            for until, owner in (
                (OrderIntent.lease_until, OrderIntent.lease_owner),
                (ClientLease.until, ClientLease.owner),
                (LeaderRow.until, LeaderRow.owner),
            ):
                held = update(until.class_).where(until > now, owner.like(of))
                transaction.execute(held.values({until.key: now}))

    def _clean(self, scenario: Scenario) -> Clean:
        """A case without fault or kill, measured."""
        started, number = time.monotonic(), -next(self._clean_ones)
        case = Case(number, scenario, strategy=f"{CRASH}-clean{number}" if scenario.bracket else CRASH)
        told = self.attempt(case, 1, LIVES).finish()
        assert "done" in told, told
        clean = Clean(told["passed"], time.monotonic() - started)
        if scenario.bracket:
            self.close(case.strategy)
        return clean

    def attempt(self, case: Case, number: int, kill: Kill, triggers: tuple[Trigger, ...] = ()) -> Child:
        """One try in a process of its own."""
        ti = TaskInstance(case.run_id, number, self._upstream(case.scenario), case.strategy)
        triggers = tuple(map(partial(_when_listed, case), triggers))
        if kill.boundary and (trigger := kill.trigger(self.clean_of(case.scenario))) is not None:
            triggers = (*triggers, trigger)

        def task() -> Any:
            operator = OrderOperator(
                task_id=TASK_ID,
                strategy=case.strategy,
                symbol=case.scenario.symbol,
                signal_task="signal",
                **case.scenario.operator,
            )
            return operator.execute({"ti": ti})

        return Child(task, Boundaries(triggers, lambda **command: self._happen(case, command)), self._log)

    def _happen(self, case: Case, command: dict[str, Any]) -> None:
        if command["cmd"] in _ABOUT_ORDER:
            deadline = time.monotonic() + 5
            while not (found := self.gateway.orders(replace(self._key(case), leg=case.leg).order_ref)):
                assert time.monotonic() < deadline, f"{case}: the broker has no order"
            command = command | {"client": found[0]["client_id"]}
            if command["cmd"] == "error":
                command["id"] = found[0]["order_id"]
        self.gateway.control(**command)

    def _arm(self, case: Case) -> None:
        of_order = {"order_ref": replace(self._key(case), leg=case.leg).order_ref} if case.fault.of_order else {}
        for command in case.fault.armed:
            self.gateway.control(**command, **of_order)

    def _mend(self, case: Case) -> None:
        for command in case.fault.mended:
            self.gateway.control(**command)
        if "manual_order" in case.fault.commands:
            self._undo_by_hand()

    def _undo_by_hand(self) -> None:
        """Sell what was bought by hand, and trade on: a reconciliation may have seen it."""
        orders = self.gateway.control(cmd="orders")["orders"]
        by_hand = [order for order in orders if not order["client_id"]]
        if len(by_hand) % 2:
            symbol, quantity = by_hand[-1]["symbol"], int(by_hand[-1]["quantity"])
            self.gateway.control(cmd="manual_order", action="SELL", symbol=symbol, quantity=quantity)
        now = datetime.now(UTC)
        with self.database.write() as transaction:
            TradingStates(transaction).change(CRASH, TradingState.ACTIVE, by="person", reason="it is sold", at=now)

    def _upstream(self, scenario: Scenario) -> dict[str, Any]:
        return upstream(scenario, self.instrument(scenario.symbol))

    def do(self, task: Callable[[], Any]) -> Any:
        """What a task returns, in a process of its own."""
        return self.child(task).finish()["done"]

    def child(self, task: Callable[[], Any], triggers: tuple[Trigger, ...] = ()) -> Child:
        """A task in a process of its own."""
        return Child(task, Boundaries(triggers, self.gateway.control), self._log)


def _when_listed(case: Case, trigger: Trigger) -> Trigger:
    """A bracket is listed by the gateway when its last order, the third, has been sent."""
    about_order = trigger.command is not None and trigger.command["cmd"] in _ABOUT_ORDER
    return replace(trigger, at=3) if about_order and case.scenario.bracket else trigger


def close_all(strategy: str) -> str:
    """`airflow ibkr halt --cancel-working --flatten`; its exit status, or why it did nothing."""
    given = {"strategy": strategy, "reason": "crash", "cancel_working": True, "flatten": True, "command_id": ""}
    try:
        halt(argparse.Namespace(**given))
    except SystemExit as end:
        return str(end.code)
    return "0"


def cancel_all_by_hand() -> None:
    """As somebody does in TWS: the orders of all clients."""
    with leased_session(IBKRHook().get_conn(), open_database(), owner="by hand") as session:
        session._gateway.client.reqGlobalCancel()
        left = [order for order in session.everything().orders if order.status not in TERMINAL_STATUSES | DEAD_STATUSES]
        assert not left, left


def upstream(scenario: Scenario, instrument: Instrument) -> dict[str, Any]:
    """What the signal task returns."""
    signal_of_the_day = {
        "symbol": scenario.symbol,
        "action": "buy",
        "confidence": 0.9,
        "as_of": CLOCK,
        "analyst": "none",
    }
    return {"signal": signal_of_the_day, "signal_id": None, "market_data": {"instrument": instrument.to_dict()}}


def ask_books() -> dict[str, Any]:
    """The day's executions, those by hand apart, and the positions, by the broker."""
    with leased_session(IBKRHook().get_conn(), open_database(), owner="books") as session:
        ours = [execution for execution in session.executions() if execution.client_id]
        return {
            "executions": {e.exec_id: [str(e.quantity), str(e.price), str(e.commission)] for e in ours},
            "positions": {str(p.con_id): str(p.quantity) for p in session.positions()},
        }


def _resolve(symbol: str) -> dict[str, Any]:
    with leased_session(IBKRHook().get_conn(), open_database(), owner="resolve") as session:
        return session.resolve(InstrumentSpec.parse(symbol)).to_dict()


def _days() -> Iterator[datetime]:
    first = datetime.fromisoformat(CLOCK)
    calendar = exchange_calendars.get_calendar(
        "XNYS", start=first.date(), end=first.date().replace(year=first.year + 2)
    )
    for session in calendar.sessions:
        yield datetime.combine(session.date(), first.timetz())
