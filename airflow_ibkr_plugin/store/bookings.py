"""The number of each booking in an account, in the order of their commits: what was booked since is told by it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.database import lock
from airflow_ibkr_plugin.store.models.limits import AccountBookings
from airflow_ibkr_plugin.store.models.orders import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.sources import gateway_kind, like_kind, of_kind
from airflow_ibkr_plugin.store.sql import insert
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.risk_facts import OpenOrder


@dataclass(frozen=True)
class Bookings:
    """Bookings of one account, by every connection to it."""

    session: Session
    source: str
    account: str

    def hold(self) -> None:
        """Nobody else books in the account until the end of this transaction.

        So the numbers are in the order of the commits: where one is seen, all below it are.
        """
        lock(self.session, f"bookings:{gateway_kind(self.source)}:{self.account}")

    def next(self) -> int:
        """The number of the booking that this transaction makes, under :meth:`hold`."""
        keys = {"kind": gateway_kind(self.source), "account": self.account}
        statement = insert(self.session, AccountBookings).values(**keys, booked=1)
        statement = statement.on_conflict_do_update(
            index_elements=list(keys), set_={"booked": AccountBookings.booked + 1}
        )
        return self.session.scalars(statement.returning(AccountBookings.booked)).one()

    def last(self) -> int:
        """The number of the last one; 0 where there is none."""
        query = select(AccountBookings.booked).where(
            AccountBookings.kind == gateway_kind(self.source), AccountBookings.account == self.account
        )
        return self.session.scalar(query) or 0

    def since(self, number: int) -> tuple[OpenOrder, ...]:
        """The fills of our orders that were booked after that number, in the form of orders that may still fill.

        An account that the broker told when that number was the last may lack them.
        """
        given = {"kind": like_kind(self.source), "account": self.account, "number": number}
        return tuple(
            OpenOrder(
                strategy=row.strategy,
                instrument=Instrument.from_dict(row.instrument),
                side=row.side,
                remaining=Decimal(row.quantity),
                price=row.price,
                booked=True,
            )
            for row in self.session.execute(_SINCE, given)
        )


# Made once, as every order asks.
_SINCE = (
    select(
        ExecutionRow.strategy,
        ExecutionRow.side,
        ExecutionRow.quantity,
        ExecutionRow.price,
        OrderIntent.instrument,
    )
    .join(OrderIntent, OrderIntent.id == ExecutionRow.intent_id)
    .where(
        of_kind(ExecutionRow.source),
        ExecutionRow.account == bindparam("account"),
        ExecutionRow.booking > bindparam("number"),
        ExecutionRow.taken_back_on.is_(None),
    )
    .order_by(ExecutionRow.booking)
)
