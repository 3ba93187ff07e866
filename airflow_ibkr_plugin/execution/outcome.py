"""How an order ended, or stands, as the trading database knows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.execution.intent import load_row
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.orders import IntentState, Side

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Decided:
    """One stored risk decision, as text."""

    rule: str
    outcome: str
    reason: str
    limit: str
    observed: str


@dataclass(frozen=True, kw_only=True)
class ExitOutcome:
    """What became of an exit of a bracket so far."""

    leg: str
    order_ref: str
    state: str
    quantity: str
    filled: str


@dataclass(frozen=True, kw_only=True)
class OrderOutcome:
    """What became of an order intent.

    :param quantity: what risk let pass, in units; `requested_quantity` what was asked for.
    :param average_price: of the fills, in the instrument's currency; None before the first.
    :param commission: sum over the fills, in `commission_currency`.
    :param decisions: every decision of every risk check, in order. :param exits: of its bracket, oldest first.
    """

    intent_id: int
    order_ref: str
    state: IntentState
    symbol: str
    side: Side
    requested_quantity: Decimal
    quantity: Decimal
    filled: Decimal
    average_price: Decimal | None
    commission: Decimal
    commission_currency: str
    reason: str
    source: str
    account: str
    decisions: tuple[Decided, ...] = ()
    exits: tuple[ExitOutcome, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether it was traded at a simulated gateway."""
        return self.source.startswith("simulator:")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for XCom; decimals as text."""
        plain = {k: str(v) if isinstance(v, Decimal) else v for k, v in asdict(self).items()}
        return plain | {"state": str(self.state), "side": str(self.side), "simulated": self.simulated}


def outcome_of(database: Database, intent_id: int) -> OrderOutcome:
    """Read the outcome of an intent."""
    with database.read() as transaction:
        return read_outcome(transaction, intent_id)


def read_outcome(transaction: Session, intent_id: int) -> OrderOutcome:
    """The same inside a transaction."""
    row = load_row(transaction, intent_id)
    fills = Executions(transaction).for_intent(intent_id)
    filled = sum((fill.quantity for fill in fills), Decimal(0))
    worth = sum((fill.quantity * fill.price for fill in fills), Decimal(0))
    return OrderOutcome(
        intent_id=row.id,
        order_ref=row.order_ref,
        state=row.state,
        symbol=row.symbol,
        side=row.side,
        requested_quantity=row.requested_quantity,
        quantity=row.quantity,
        filled=filled,
        average_price=worth / filled if filled else None,
        commission=sum((fill.commission for fill in fills if fill.commission is not None), Decimal(0)),
        commission_currency=next((fill.commission_currency for fill in fills if fill.commission_currency), ""),
        reason=row.reason,
        source=row.source,
        account=row.account,
        decisions=tuple(
            Decided(
                rule=made.rule,
                outcome=str(made.outcome),
                reason=made.reason,
                limit=made.limit_value,
                observed=made.observed,
            )
            for made in RiskDecisions(transaction).for_intent(intent_id)
        ),
        exits=tuple(
            ExitOutcome(
                leg=one.leg,
                order_ref=one.order_ref,
                state=str(one.state),
                quantity=f"{one.quantity:f}",
                filled=f"{sum((fill.quantity for fill in Executions(transaction).for_intent(one.id)), Decimal(0)):f}",
            )
            for one in Units(transaction).exits(intent_id)
        ),
    )
