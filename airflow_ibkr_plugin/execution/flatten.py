"""Closing the positions of a command's scope with market orders, through the one order path, exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.errors import BrokerError, ConfigError, IBKRPluginError, IntentBusy, NotLeader, StoreError
from airflow_ibkr_plugin.execution.halt import GatewayOf, load
from airflow_ibkr_plugin.execution.place import execute, resume
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.database import installation_id
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.positions import ACCOUNT, Positions
from airflow_ibkr_plugin.store.sources import gateway_kind
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.trading.instruments import Instrument, SecType
from airflow_ibkr_plugin.trading.market_hours import is_open
from airflow_ibkr_plugin.trading.orders import TERMINAL, IntentKey, OrderTicket, Side
from airflow_ibkr_plugin.trading.sizing import whole_increments
from airflow_ibkr_plugin.trading.trading_state import FLATTEN_LEG, INSTALLATION, command_run_id

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.trading_state import TradingCommand

#: How long a closing order may take to fill; what is left then is cancelled.
WAIT_SECONDS = 60.0
# One command at a time closes the positions of an account, and renews its claim before each order. One that died is
# waited for so long, but not by the same claimant.
_CLAIM_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What is to be closed. `strategy` is '' for what the account holds and no strategy's book explains."""

    strategy: str
    account: str
    con_id: int
    symbol: str
    quantity: Decimal
    currency: str
    sec_type: str

    def __str__(self) -> str:
        return f"{self.quantity:f} {self.symbol} of {self.strategy or 'no strategy'} in {self.account}"


@dataclass(frozen=True, kw_only=True)
class Flattening:
    """What :func:`flatten` did: the orders, and what is held still, or could not be asked, and why.

    :param busy: somebody else closes positions there at this moment; it is worth to call again.
    """

    closed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    busy: bool = False


def flatten(
    database: Database,
    command_id: str,
    *,
    gateway_of: GatewayOf,
    owner: str,
    wait_seconds: float = WAIT_SECONDS,
    claimant: str = "",
    succeeds: str = "",
) -> Flattening:
    """Close what each strategy of the command's scope holds; for the installation, what the account holds besides.
    Of a closing, what it is about.

    Called again for the same command it goes on where it was: an order that was sent is found, not sent again; what
    one left open (it did not fill in time, or was refused) is closed by the next. When nothing is left, that is
    stored, and further calls do nothing. While a market is known to be closed nothing is sent there.

    :param claimant: who closes, where that is not the person who repeats the command: a caller takes over at once from
        one of its own name, and waits for any other.
    :param succeeds: the beginning of the names of those that it takes over from at once besides.
    :raises ConfigError: the command is ended, does not flatten, or its cancel is not verified yet.
    :raises StoreError: the trading database failed.
    :raises NotLeader: by its guard, which is asked before each order; nothing (more) is sent or stored.
    """
    command = load(database, command_id)
    if not command.flatten or command.cancelled_at is None:
        raise ConfigError(
            f"Command {command_id} {'has orders that may work' if command.flatten else 'closes no positions'}.",
            remedy="Give it again as it was, until it is verified." if command.flatten else "Give a new command.",
        )
    if command.flat_at is not None:
        return Flattening()
    closed: list[str] = []
    left: list[str] = []
    busy = False
    for source in _sources(database, command):
        try:
            spec = gateway_of(source.partition(":")[2])
            with leased_session(spec, database, owner=owner) as session:
                if session.source != source:
                    raise ConfigError(
                        f"connection {spec.conn_id!r} leads to {session.source} now.", remedy="Set it back."
                    )
                with _claim(database, session, claimant or command_id, succeeds) as claim:
                    _flatten_at(session, database, command, owner, wait_seconds, claim, closed, left)
        except (StoreError, NotLeader):
            raise
        except IntentBusy as error:
            busy = True
            left.append(f"{source}: {error}")
        except IBKRPluginError as error:
            left.append(f"{source}: {error}")
    if not left:
        with database.write() as transaction:
            stored = TradingCommands(transaction).get(command_id)
            assert stored is not None
            stored.flat_at = datetime.now(UTC)
    return Flattening(closed=tuple(closed), left=tuple(left), busy=busy)


def _sources(database: Database, command: TradingCommand) -> list[str]:
    """Where the scope has traded, or holds something by our books."""
    with database.read() as transaction:
        traded = TradingCommands(transaction).sources(command)
        held = {
            row.source
            for row in Positions(transaction).list()
            if row.quantity and _in_scope(command, row.strategy, row.symbol)
        }
    return sorted(held | traded.keys())


def _in_scope(command: TradingCommand, strategy: str, symbol: str) -> bool:
    mine = strategy != ACCOUNT and command.strategy in (INSTALLATION, strategy)
    return mine and command.symbol in ("", symbol)


@contextmanager
def _claim(
    database: Database, session: BrokerSession, claimant: str, succeeds: str = ""
) -> Iterator[Callable[[], None]]:
    """Be the only one who closes positions of the account; gives what holds the claim longer, or raises IntentBusy."""
    name, one = f"flatten:{gateway_kind(session.source)}:{session.account}", range(1)
    busy = IntentBusy(
        f"Another command, or the service, closes the positions of {session.account}.",
        remedy=f"Wait for it, at most {_CLAIM_SECONDS / 60:.0f} minutes where it has died, and try again.",
    )

    def renew() -> None:
        with database.write() as transaction:
            now = datetime.now(UTC)
            if not ClientLeases(transaction).renew(name, one.start, claimant, now, _CLAIM_SECONDS):
                raise busy

    with database.write() as transaction:
        leases = ClientLeases(transaction)
        holder = leases.holder(name, one.start)
        if holder is not None and (holder == claimant or (succeeds and holder.startswith(succeeds))):
            leases.release(name, one.start, holder)
        if leases.acquire(name, one, claimant, datetime.now(UTC), _CLAIM_SECONDS) is None:
            raise busy
    try:
        yield renew
    finally:
        with database.unguarded().write() as transaction:
            ClientLeases(transaction).release(name, one.start, claimant)


def _flatten_at(
    session: BrokerSession,
    database: Database,
    command: TradingCommand,
    owner: str,
    wait_seconds: float,
    claim: Callable[[], None],
    closed: list[str],
    left: list[str],
) -> None:
    for order_ref in _unfinished(session, database, command):
        claim()
        resume(session, database, order_ref, owner=owner, wait_seconds=wait_seconds)
    why: dict[tuple[str, int], str] = {}
    # What no strategy explains comes last: what the strategies close is no part of it.
    for holdings in (_of_strategies, _unexplained):
        for holding in holdings(session, database, command):
            claim()
            try:
                said = _close(session, database, command, holding, owner, wait_seconds)
                closed.append(said)
            except (StoreError, NotLeader):
                raise
            except IBKRPluginError as error:
                said = str(error)
            why[holding.strategy, holding.con_id] = said
    for holdings in (_of_strategies, _unexplained):
        for holding in holdings(session, database, command):
            reason = why.get((holding.strategy, holding.con_id), "it came in the meantime")
            left.append(f"{holding}: {reason}")


def _unfinished(session: BrokerSession, database: Database, command: TradingCommand) -> list[str]:
    """Closing orders of an earlier call that may be at the broker."""
    with database.read() as transaction:
        rows = TradingCommands(transaction).unfinished_closing(command_run_id(command.id), session.source)
    return [row.order_ref for row in rows]


def _of_strategies(session: BrokerSession, database: Database, command: TradingCommand) -> list[Holding]:
    """By our books, by the session's connection; of a closing no more than is left of its quantity."""
    with database.read() as transaction:
        rows = Positions(transaction).list(source=session.source)
        left = TradingCommands(transaction).left_to_close(command.id)
    found = [
        Holding(
            strategy=row.strategy,
            account=row.account,
            con_id=row.con_id,
            symbol=row.symbol,
            quantity=row.quantity,
            currency=row.currency,
            sec_type=row.sec_type,
        )
        for row in rows
        if row.quantity and _in_scope(command, row.strategy, row.symbol)
    ]
    if left is None:
        return found
    return [replace(one, quantity=max(-left, min(left, one.quantity))) for one in found] if left else []


def _unexplained(session: BrokerSession, database: Database, command: TradingCommand) -> list[Holding]:
    """What the broker says that the account holds, less what the strategies' books say; none for one strategy."""
    if command.strategy != INSTALLATION:
        return []
    found = []
    for position in session.positions():
        with database.read() as transaction:
            booked = Positions(transaction).of_strategies(session.source, session.account, position.con_id)
        rest = position.quantity - sum((row.quantity for row in booked), Decimal(0))
        if rest:
            found.append(
                Holding(
                    strategy=INSTALLATION,
                    account=position.account,
                    con_id=position.con_id,
                    symbol=position.symbol,
                    quantity=rest,
                    currency=position.currency,
                    sec_type=position.sec_type,
                )
            )
    return found


def _close(
    session: BrokerSession,
    database: Database,
    command: TradingCommand,
    holding: Holding,
    owner: str,
    wait_seconds: float,
) -> str:
    """Send the closing order, or find the one that was sent, and follow it to its end. Risk lets it only close."""
    if holding.account != session.account:
        raise ConfigError(
            f"connection {session.spec.conn_id!r} trades {session.account} now.", remedy="Set its account back."
        )
    instrument = session.resolve(_named(holding))
    if is_open(instrument, session.now()) is False:
        raise BrokerError("its market is closed.", remedy="Give the command again, or leave it to the service.")
    quantity = whole_increments(abs(holding.quantity), Decimal(1), instrument.size_increment)
    if quantity < instrument.min_size:
        raise ConfigError(f"the smallest order is {instrument.min_size:f}.", remedy="Close it by hand in TWS.")
    request = OrderRequest(
        key=_key(database, command, holding),
        strategy=holding.strategy,
        source=session.source,
        account=session.account,
        mode="live" if session.spec.live else "paper",
        instrument=instrument,
        ticket=OrderTicket(side=Side.SELL if holding.quantity > 0 else Side.BUY, quantity=quantity),
        wait_seconds=wait_seconds,
    )
    outcome = execute(session, database, request, owner=owner)
    said = f"{outcome.side} {outcome.quantity:f} {outcome.symbol}: {outcome.state}, filled {outcome.filled:f}"
    return f"{said} ({outcome.reason})"


def _key(database: Database, command: TradingCommand, holding: Holding) -> IntentKey:
    """The first of the command's orders for this holding that has not ended, or the one to come after them."""
    with database.write() as transaction:
        key = IntentKey(
            installation=installation_id(transaction),
            dag_id=holding.strategy,
            run_id=command_run_id(command.id),
            task_id="flatten",
            con_id=holding.con_id,
            leg=FLATTEN_LEG,
        )
        while (row := Intents(transaction).by_order_ref(key.order_ref)) is not None and row.state in TERMINAL:
            key = replace(key, generation=key.generation + 1)
    return key


def _named(holding: Holding) -> Instrument:
    """Enough of the contract to ask the broker for the rest of it by its conId.

    :raises ConfigError: it is of a kind that this package does not trade.
    """
    try:
        sec_type = SecType(holding.sec_type)
    except ValueError as error:
        raise ConfigError(f"{holding.sec_type} is not traded by this package.", remedy="Close it by hand.") from error
    forex = sec_type is SecType.FOREX
    return Instrument(
        symbol=holding.symbol.partition(".")[0] if forex else holding.symbol,
        sec_type=sec_type,
        exchange="IDEALPRO" if forex else "SMART",
        currency=holding.currency,
        con_id=holding.con_id,
        min_tick=Decimal(0),
    )
