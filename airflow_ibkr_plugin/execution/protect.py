"""Never an entry left without its stop: the exits of a bracket, once its entry has ended.

Called again at any time it goes on where it was: by the task behind its order, by the retry, and by the service for as
long as anything of the bracket is held.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import takewhile
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.errors import AmbiguousOrder, BrokerTimeout
from airflow_ibkr_plugin.execution import recover as recovering
from airflow_ibkr_plugin.execution.book import book
from airflow_ibkr_plugin.execution.bracket import Find, asked, unprotected
from airflow_ibkr_plugin.execution.held import held_of, of_strategy
from airflow_ibkr_plugin.execution.intent import Job, exit_fields, load_row, ticket_of
from airflow_ibkr_plugin.execution.recover import adopt, recover
from airflow_ibkr_plugin.execution.request import job_of, request_of
from airflow_ibkr_plugin.execution.send import reserve_and_send
from airflow_ibkr_plugin.execution.settle import cancel_order, owner_of, settle
from airflow_ibkr_plugin.execution.unbooked_split import unbooked_split
from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.brackets import (
    CLOSE_LEG,
    MAX_STOPS,
    RESCUE_LEG,
    STOP_LEG,
    is_stop,
    split_stop,
    trailed_stop,
)
from airflow_ibkr_plugin.trading.orders import (
    MAYBE_AT_BROKER,
    TERMINAL,
    BracketState,
    BrokerOrder,
    IntentState,
    OrderTicket,
)
from airflow_ibkr_plugin.trading.risk_facts import open_quantity
from airflow_ibkr_plugin.trading.trading_state import FLATTEN_LEG

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

log = logging.getLogger(__name__)

#: An entry that was left working may be filled in part for so long.
PARTLY_FILLED = timedelta(seconds=60)
#: A stop that was gone sooner than this, and nobody had asked for it, counts as one that cannot be had.
LASTING = timedelta(seconds=60)
#: How long an order that closes what cannot be protected may take before it is left to the service.
RESCUE_SECONDS = 30.0
#: So many looks at exits whose quantities are not what is held, before that is left to the next visit.
_FITS = 6
#: After so many closing orders as stops may be refused, the next ones wait for so long.
RESCUE_PAUSE = timedelta(minutes=5)


def protect(job: Job, find: Find | None = None) -> None:
    """Bring the exits of a bracket to where they must be, under the lease of its entry.

    What the entry has filled and no exit has closed has a working stop of that quantity afterwards, or is closed; where
    neither is possible a person is alerted. A command or a task that closes it meanwhile is left alone.

    :param find: what the broker knows of an exit, where it was asked just now.
    :raises AmbiguousOrder: nobody can say what became of an exit.
    :raises BrokerError: the broker could not be asked, or did not confirm; the next call goes on.
    """
    if job.load().bracket is not BracketState.OPEN:
        return
    keeper = _Keeper(job, find or asked(job))
    keeper.end_unprotected_entry()
    if job.load().state in TERMINAL:
        keeper.keep()


class _Keeper:
    """One look at one bracket."""

    def __init__(self, job: Job, find: Find) -> None:
        self._job = job
        self._find = find

    def end_unprotected_entry(self) -> None:
        """An entry that works, and whose stop is gone, is cancelled before more of it fills."""
        row = self._job.load()
        if row.state not in (IntentState.WORKING, IntentState.CANCELLING):
            return
        gone = unprotected(self._job, self._find)
        why = gone or self._filled_in_part()
        if row.state is IntentState.WORKING and not why:
            return
        order = adopt(self._job, self._find(row))
        if order is None:
            return
        if row.state is IntentState.WORKING:
            if gone:
                self._alert("entry", f"{gone}, so the entry is cancelled")
            self._job.move(IntentState.CANCELLING, why)
        settle(self._job, order)

    def _filled_in_part(self) -> str:
        """Exits begin to work when the entry has ended: one that was left working must not hold a part for long."""
        with self._job.database.read() as transaction:
            fills = Executions(transaction).for_intent(self._job.intent_id)
        if fills and fills[0].booked_at < datetime.now(UTC) - PARTLY_FILLED:
            return "it has filled in part, and its exits wait for its end"
        return ""

    def keep(self) -> None:
        """Once the entry has ended."""
        alive = self._look()
        if self._is_being_closed():
            if self._is_taken_over():
                self._end(alive)
            return
        held = self._held()
        if held <= 0:
            self._end(alive)
            self._close()
            return
        stops = [pair for pair in alive if is_stop(pair[0].leg)]
        if stops:
            self._fit(alive)
        elif not any(row.leg.partition(".")[0] == RESCUE_LEG for row, _ in alive):
            self._end(alive)  # the target: a new stop could not join its group, and both could fill
            self._protect_anew()

    # --- what there is ------------------------------------------------------------------------------------

    def _look(self) -> list[tuple[OrderIntent, BrokerOrder]]:
        """Book what the broker knows of each exit; those that are alive, with their orders.

        :raises AmbiguousOrder: nobody knows what became of one; the others have been looked at.
        """
        alive, unknown = [], list[AmbiguousOrder]()
        # Stops first: an exit that cannot be looked at must not keep them from it.
        for row in sorted(self._job.exits(), key=lambda row: not is_stop(row.leg)):
            exit_job = job_of(self._job, row)
            try:
                order = self._order_of(exit_job, row)
            except AmbiguousOrder as error:
                unknown.append(error)
                continue
            if order is not None and exit_job.load().state is IntentState.CANCELLING:
                self._cancel(exit_job, order)
            elif order is not None:
                alive.append((exit_job.load(), order))
        if unknown:
            raise unknown[0]
        return alive

    def _order_of(self, exit_job: Job, row: OrderIntent) -> BrokerOrder | None:
        """The order of an exit, where it is alive. A later stop, whose sender has died, is sent."""
        if row.state in (IntentState.DECIDED, IntentState.RESERVED):
            return None if self._is_being_closed() else reserve_and_send(exit_job, None)
        if row.state not in MAYBE_AT_BROKER:
            return None
        truth = self._find(row)
        order = adopt(exit_job, truth) if truth.known else recover(exit_job)
        if order is None and exit_job.load().state is IntentState.AMBIGUOUS:
            exit_job.move(IntentState.ABANDONED, "it never reached the broker; another takes its place")
        return order

    def _held(self) -> Decimal:
        with self._job.database.read() as transaction:
            return held_of(transaction, load_row(transaction, self._job.intent_id))

    def _is_being_closed(self) -> bool:
        with self._job.database.read() as transaction:
            row = load_row(transaction, self._job.intent_id)
            if TradingCommands(transaction).flattening(row):
                return True
            where = (row.source, row.account, row.strategy, row.con_id)
            legs = frozenset({CLOSE_LEG, FLATTEN_LEG})
            return Units(transaction).closing(*where, legs=legs, now=datetime.now(UTC))

    def _is_taken_over(self) -> bool:
        """Whether a command closes it that has nothing more to cancel: an exit that went out since is in its way."""
        with self._job.database.read() as transaction:
            return TradingCommands(transaction).flattening(load_row(transaction, self._job.intent_id), verified=True)

    # --- what is done -------------------------------------------------------------------------------------

    def _fit(self, alive: list[tuple[OrderIntent, BrokerOrder]]) -> None:
        """The quantities of the exits are what is held. The broker has a moment to see to that by itself, and nothing
        is changed that changes by itself: only what two looks have found the same.

        :raises BrokerTimeout: it is not so yet.
        """
        seen: dict[int, tuple[Decimal, Decimal]] = {}
        for _ in range(_FITS):
            held = self._held()
            if held <= 0 or not any(is_stop(row.leg) for row, _ in alive):
                return  # the next look sees to it
            wrong = {row.id: (order.remaining, held) for row, order in alive if order.remaining != held}
            if not wrong:
                return
            if wrong == seen:
                row, order = next(pair for pair in alive if pair[0].id in wrong)
                self._resize(row, order, held)
                del wrong[row.id]
            else:
                time.sleep(recovering.SETTLE_SECONDS)
            seen = wrong
            self._job.renew()
            self._find = asked(self._job)
            alive = self._look()
        raise BrokerTimeout(
            f"The exits of order {self._job.load().order_ref} are not for what is held yet.",
            remedy="Nothing is to be done: the retry, or the service, looks at them again.",
        )

    def _resize(self, row: OrderIntent, order: BrokerOrder, held: Decimal) -> None:
        log.warning("%s of %s is for %s, and %s is held", row.leg, row.order_ref, order.remaining, held)
        with owner_of(self._job, order.client_id, f"change of {order.order_ref}") as owner:
            changed = owner.resize(self._job.instrument, order, ticket_of(row), order.filled + held)
        with self._job.database.write() as transaction:
            self._job.lease.renew(transaction)
            load_row(transaction, row.id).quantity = changed.quantity
        book(job_of(self._job, row), BrokerTruth(orders=(changed,), executions=(), asked_at=datetime.now(UTC)))

    def _protect_anew(self) -> None:
        """Send the stop anew; where it is refused, close what is held by a market order."""
        ticket, stops = self._stop_ticket(), self._stops()
        if suspicion := unbooked_split(self._job, ticket):
            self._alert("jump", f"its stop is gone, and {suspicion}: no stop is sent before it is")
            return
        for leg in self._later_legs(stops):
            quantity = self._unguarded()
            if quantity <= 0:
                log.info("%s: what is held is being closed by another order", self._job.load().order_ref)
                return
            row = self._send(leg, replace(ticket, quantity=quantity))
            if row.state is IntentState.REJECTED:
                break
            if row.state in (IntentState.DENIED, IntentState.ABANDONED):
                time.sleep(recovering.SETTLE_SECONDS)  # the account may not show yet what has just filled
                self._job.renew()
                continue
            if not self._was_wanted(stops[-1]):
                self._alert(leg, f"its stop was gone; a new one is {row.state}: {row.order_ref}")
            return
        self._rescue()

    def _stops(self) -> list[OrderIntent]:
        return [row for row in self._job.exits() if is_stop(row.leg)]

    def _later_legs(self, stops: list[OrderIntent]) -> list[str]:
        """The stops that may be sent now: fewer, the more of the last ones were refused or did not last."""
        failed = len(list(takewhile(self._failed, reversed(stops))))
        return [f"{STOP_LEG}.{len(stops) + number}" for number in range(1, MAX_STOPS - failed + 1)]

    def _failed(self, stop: OrderIntent) -> bool:
        if stop.state is IntentState.CANCELLED:
            return stop.updated_at - stop.created_at < LASTING and not self._was_wanted(stop)
        return stop.state in (IntentState.REJECTED, IntentState.DENIED, IntentState.ABANDONED)

    def _was_wanted(self, stop: OrderIntent) -> bool:
        """Whether a closing task or a command asked for the end of a stop, which comes with its target's end too."""
        with self._job.database.read() as transaction:
            intents, exits = Intents(transaction), Units(transaction).exits(self._job.intent_id)
            moves = [move for row in exits for move in intents.transitions(row.id)]
            cancels = [move.at for move in moves if move.to_state is IntentState.CANCELLING]
            wanted = any(stop.created_at <= at <= stop.updated_at for at in cancels)
            return wanted or TradingCommands(transaction).flattened(stop)

    def _rescue(self) -> None:
        rescues = [row for row in self._job.exits() if row.leg.partition(".")[0] == RESCUE_LEG]
        leg = f"{RESCUE_LEG}.{len(rescues) + 1}" if rescues else RESCUE_LEG
        quantity = self._unguarded()
        if quantity <= 0:
            return
        if len(rescues) >= MAX_STOPS:
            self._alert("naked", "no stop can be had, and it could not be closed either; that is tried on and on")
            if rescues[-1].updated_at > datetime.now(UTC) - RESCUE_PAUSE:
                return
        row = self._send(leg, OrderTicket(side=self._stop_ticket().side, quantity=quantity))
        if row.state is IntentState.DENIED:
            self._alert(leg, f"no stop can be had, and risk does not let it be closed: {row.reason}")
            return
        self._alert(leg, f"no stop can be had, and it is closed by a market order, {row.state}: {row.order_ref}")
        if self._held() <= 0:
            self._close()

    def _unguarded(self) -> Decimal:
        """What is held and no other order is closing already."""
        held = self._held()
        with self._job.database.read() as transaction:
            entry = load_row(transaction, self._job.intent_id)
            others = AccountOrders(transaction, entry.source, entry.account, excluding=entry.id).open()
            side = self._stop_ticket().side
            closing = abs(open_quantity(others, entry.con_id, side=side, strategy=entry.strategy))
            return min(held, of_strategy(transaction, entry) * entry.side.sign - closing)

    def _stop_ticket(self) -> OrderTicket:
        """The stop as it was decided, or where it has trailed to, at prices of today's shares."""
        stops = self._stops()
        with self._job.database.read() as transaction:
            fills = Executions(transaction).for_intent(self._job.intent_id)
            ratio = Units(transaction).shares_since(stops[0], fills[-1].time)
            told = [order.stop_price for stop in stops for order in Orders(transaction).for_intent(stop.id)]
        if ratio != 1:  # the broker told of prices of old shares
            return split_stop(ticket_of(stops[0]), self._job.instrument, ratio)
        return trailed_stop(ticket_of(stops[0]), self._job.instrument, [price for price in told if price is not None])

    def _send(self, leg: str, ticket: OrderTicket) -> OrderIntent:
        entry, at = self._job.load(), datetime.now(UTC)
        key = replace(request_of(entry, 0).key, leg=leg)
        with self._job.database.write() as transaction:
            self._job.lease.renew(transaction)
            row, _ = Intents(transaction).get_or_create(key, **exit_fields(entry, ticket, at))
        exit_job = job_of(self._job, row, wait_seconds=RESCUE_SECONDS if not is_stop(leg) else 0.0)
        order = reserve_and_send(exit_job, None)
        if order is not None:
            settle(exit_job, order)
        return exit_job.load()

    def _end(self, alive: list[tuple[OrderIntent, BrokerOrder]]) -> None:
        for row, order in alive:
            self._cancel(job_of(self._job, row), order)

    def _cancel(self, exit_job: Job, order: BrokerOrder) -> None:
        cancel_exit(exit_job, order, "its bracket is over, or its stop is gone")

    def _close(self) -> None:
        with self._job.database.write() as transaction:
            self._job.lease.renew(transaction)
            load_row(transaction, self._job.intent_id).bracket = BracketState.CLOSED

    def _alert(self, leg: str, what: str) -> None:
        row = self._job.load()
        log.error("bracket %s: %s", row.order_ref, what)
        message = AlertMessage(
            severity=Severity.CRITICAL,
            title=f"[IBKR] {row.strategy}: {row.symbol} was without its stop",
            summary=f"{row.order_ref} ({row.side} {row.quantity:f} {row.symbol}, account {row.account}): {what}",
            done=[f"It was sent by run {row.run_id} of DAG {row.dag_id}."],
            next_step="Look at the position and its orders in TWS.",
        )
        with self._job.database.write() as transaction:
            self._job.lease.renew(transaction)
            enqueue(
                transaction,
                message,
                dedupe_key=f"bracket:{row.order_ref}:{leg}",
                strategy=row.strategy,
                dag_id=row.dag_id,
                run_id=row.run_id,
                at=datetime.now(UTC),
            )


def cancel_exit(exit_job: Job, order: BrokerOrder, why: str) -> None:
    """Cancel an exit, confirmed and booked.

    :raises BrokerTimeout: its end, or all of its fills, are not confirmed.
    """
    if exit_job.load().state is not IntentState.CANCELLING:
        exit_job.move(IntentState.CANCELLING, why)
    row = book(exit_job, cancel_order(exit_job, order))
    if row.state not in TERMINAL:
        raise BrokerTimeout(
            f"The end of order {row.order_ref} is not confirmed, or not all its fills are listed yet.",
            remedy="Nothing is to be done: the retry asks again.",
        )
