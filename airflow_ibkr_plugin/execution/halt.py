"""Changing the trading state, and cancelling what works until the broker has confirmed that nothing does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import BrokerError, ClientIdInUse, ConfigError, IBKRPluginError, NotLeader, StoreError
from airflow_ibkr_plugin.execution.book import ended
from airflow_ibkr_plugin.execution.place import resume
from airflow_ibkr_plugin.execution.recover import SETTLE_SECONDS
from airflow_ibkr_plugin.execution.settle import CANCEL_SECONDS
from airflow_ibkr_plugin.store.models.trading_state import TradingCommand, TradingStateChange
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.orders import BrokerOrder, IntentState
from airflow_ibkr_plugin.trading.trading_state import CommandKind, TradingState, scope_name

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

log = logging.getLogger(__name__)

#: The gateway of an Airflow connection id. Raises ConfigError where there is no such connection.
GatewayOf = Callable[[str], GatewaySpec]


def set_state(
    database: Database,
    strategy: str,
    state: TradingState,
    *,
    by: str,
    reason: str,
    command_id: str = "",
    flatten: bool = False,
) -> TradingStateChange | None:
    """Commit a trading state. From then on nothing that it forbids begins to be sent.

    A looser state ends the scope's commands: they are not carried on.

    :param strategy: whose state; `INSTALLATION` for all. :param by: who wants it, for the record.
    :param command_id: commits with it the command to cancel all that works in the scope, and with `flatten` to close
        what it holds. With the id of an earlier command, that one is taken up again.
    :returns: the change; None where that was the state already.
    :raises ConfigError: a looser state without a reason, or the id of another command, or of one that was ended.
    """
    at = datetime.now(UTC)
    with database.write() as transaction:
        states, commands = TradingStates(transaction), TradingCommands(transaction)
        states.hold_alone()
        if command_id:
            _check_same(commands.get(command_id), strategy, state, flatten)
        change = states.change(strategy, state, by=by, reason=reason, at=at)
        if change is not None and change.old_state.stricter_than(state):
            if not reason.strip():
                raise ConfigError(
                    f"{scope_name(strategy)} is {change.old_state.upper()}; {state.upper()} lets more orders through.",
                    remedy="Say why: --reason TEXT.",
                )
            commands.end(strategy, at)
        if command_id:
            fields = {"strategy": strategy, "state": state, "flatten": flatten, "requested_by": by, "reason": reason}
            commands.get_or_create(command_id, requested_at=at, **fields)
        return change


def _check_same(known: TradingCommand | None, strategy: str, state: TradingState, flatten: bool) -> None:
    if known is None:
        return
    wanted = (CommandKind.STATE, strategy, state, flatten)
    if (known.kind, known.strategy, known.state, known.flatten) != wanted:
        what = known.state if known.kind is CommandKind.STATE else known.kind
        raise ConfigError(
            f"Command {known.id} was {what.upper()} for {scope_name(known.strategy)}"
            f"{' with --flatten' if known.flatten else ''}, not this.",
            remedy="Repeat it as it was, or leave --command-id out.",
        )
    _refuse_ended(known)


@dataclass(frozen=True, kw_only=True)
class Enforcement:
    """What one round of :func:`enforce` found.

    :param cancelled: orders that were cancelled or had filled before. :param left: orders that work, or may yet reach
        the broker, and why. :param unreachable: gateways that could not be asked, and why.
    """

    cancelled: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether the broker has confirmed that nothing of the command's scope is left working."""
        return not self.left and not self.unreachable


def enforce(database: Database, command_id: str, *, gateway_of: GatewayOf, owner: str) -> Enforcement:
    """One round: cancel the command's orders through the client ids that own them, and ask the broker what works.

    Call it until it is verified; that is stored, and further calls do nothing. A worker that holds an order, and its
    client id with it, cancels by itself within seconds.

    :param owner: who asks, for leases. :raises ConfigError: there is no such command, or it was ended.
    :raises StoreError: the trading database failed.
    :raises NotLeader: by its guard; nothing (more) is stored.
    """
    target = load(database, command_id)
    if target.cancelled_at is not None:
        return Enforcement()
    cancelled: list[str] = []
    left: list[str] = []
    unreachable: list[str] = []
    with database.read() as transaction:
        sources = TradingCommands(transaction).sources(target)
    for source, alive in sources.items():
        try:
            spec = gateway_of(source.partition(":")[2])
        except ConfigError as error:
            if alive:  # a connection that was taken away, and had nothing at the broker, need not be asked
                unreachable.append(f"{source}: {error}")
            continue
        try:
            done, remaining = _enforce_at(database, target, source, spec, owner)
        except (StoreError, NotLeader):
            raise
        except IBKRPluginError as error:
            unreachable.append(f"{source}: {error}")
        else:
            cancelled += done
            left += remaining
    result = Enforcement(cancelled=tuple(cancelled), left=tuple(left), unreachable=tuple(unreachable))
    with database.write() as transaction:
        stored = TradingCommands(transaction).get(command_id)
        assert stored is not None
        stored.last_error = "\n".join((*left, *unreachable))
        if result.verified:
            stored.cancelled_at = datetime.now(UTC)
    return result


def _enforce_at(
    database: Database, target: TradingCommand, source: str, spec: GatewaySpec, owner: str
) -> tuple[list[str], list[str]]:
    with database.read() as transaction:
        owners = [row.client_id for row in TradingCommands(transaction).maybe_at_broker(target, source)]
    with leased_session(spec, database, owner=owner, avoid=[one for one in owners if one is not None]) as session:
        if session.source != source:
            raise ConfigError(
                f"connection {spec.conn_id!r} leads to {session.source} now.", remedy="Set it back, and try again."
            )
        # Before the broker is asked: what was on its way then is in the answer, or counted here.
        under_way = _under_way(database, target, source)
        done, why = [], {}
        for order in _working(session, database, target):
            database.require()
            try:
                done.append(_cancel(session, order))
            except BrokerError as error:
                why[order.perm_id] = str(error)
        working = _working(session, database, target)
        _book(session, database, target, owner, alive={order.order_ref for order in working})
        return done, under_way + [
            f"{source}: {_name(order)}: {why.get(order.perm_id, 'it is listed still, after its cancel')}"
            for order in working
        ]


def _working(session: BrokerSession, database: Database, target: TradingCommand) -> list[BrokerOrder]:
    """The command's orders that the broker, asked now, has alive."""
    alive = [order for order in session.everything().orders if not ended(order)]
    with database.read() as transaction:
        commands = TradingCommands(transaction)
        return [order for order in alive if commands.is_about(target, order.order_ref)]


def _cancel(session: BrokerSession, order: BrokerOrder) -> str:
    if order.client_id < 1:
        raise BrokerError("it was made or changed by hand in TWS.", remedy="Cancel it there.")
    if order.client_id == session.client_id:
        truth = session.cancel(order, seconds=CANCEL_SECONDS)
    else:
        # Without a lease: that of a worker that has died would stand in the way of a kill switch for minutes. The
        # gateway itself lets no second client of an id in.
        try:
            own = BrokerSession.open(session.spec, client_id=order.client_id)
        except ClientIdInUse as error:
            raise ClientIdInUse(
                f"client id {order.client_id}, which it belongs to, is connected: its worker cancels it."
            ) from error
        with own:
            truth = own.cancel(order, seconds=CANCEL_SECONDS)
    return f"{_name(order)}: {truth.orders[-1].status}, filled {truth.filled:f}"


def _name(order: BrokerOrder) -> str:
    return f"{order.side} {order.quantity:f} of conId {order.con_id} ({order.order_ref}, permId {order.perm_id})"


def _under_way(database: Database, target: TradingCommand, source: str) -> list[str]:
    """Orders that a worker may be sending at this moment, or has sent just now."""
    now = datetime.now(UTC)
    with database.read() as transaction:
        rows = TradingCommands(transaction).maybe_at_broker(target, source)
    return [
        f"{source}: {row.order_ref} of {row.symbol} may be on its way to the broker ({row.state})"
        for row in rows
        if row.state in (IntentState.SENDING, IntentState.AMBIGUOUS) and _held_or_young(row, now)
    ]


def _held_or_young(row: OrderIntent, now: datetime) -> bool:
    held = row.lease_until is not None and row.lease_until > now
    return held or row.updated_at > now - timedelta(seconds=SETTLE_SECONDS)


def _book(
    session: BrokerSession, database: Database, target: TradingCommand, owner: str, *, alive: Collection[str]
) -> None:
    """Enter in the books what has ended; what somebody else works on is entered by them."""
    with database.read() as transaction:
        rows = TradingCommands(transaction).maybe_at_broker(target, session.source)
    for row in rows:
        if row.order_ref in alive:
            continue
        try:
            resume(session, database, row.order_ref, owner=owner, wait_seconds=0.0)
        except (StoreError, NotLeader):
            raise
        except IBKRPluginError as error:  # that nothing works is confirmed all the same
            log.warning("%s is not booked yet: %s", row.order_ref, error)


def load(database: Database, command_id: str) -> TradingCommand:
    """The command, to be carried on.

    :raises ConfigError: there is none of that id, or a looser state has ended it.
    """
    with database.read() as transaction:
        found = TradingCommands(transaction).get(command_id)
    if found is None:
        raise ConfigError(f"There is no command {command_id}.", remedy="Give the command again.")
    _refuse_ended(found)
    return found


def _refuse_ended(found: TradingCommand) -> None:
    if found.ended_at is not None:
        loosened = f"{scope_name(found.strategy)} was given a looser state"
        why = "it was withdrawn" if found.kind is CommandKind.CLOSE else loosened
        raise ConfigError(
            f"Command {found.id} was ended at {found.ended_at:%Y-%m-%d %H:%M:%S} UTC, when {why}.",
            remedy="Give a new command, without --command-id.",
        )
