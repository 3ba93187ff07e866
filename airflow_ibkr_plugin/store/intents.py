"""Order intents: stored before anything is sent, moved only along the table of states, worked on under a lease."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import StoreError
from airflow_ibkr_plugin.store.models.orders import RESERVING, IntentTransition, OrderIntent
from airflow_ibkr_plugin.store.sources import like_kind, of_kind
from airflow_ibkr_plugin.store.sql import changed, insert_if_absent
from airflow_ibkr_plugin.store.units import in_states, unheld
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, check_transition

_KEPT = frozenset({"id", "order_ref", "state", "reason", "updated_at"})
_CHANGEABLE = frozenset(OrderIntent.__table__.columns.keys()) - _KEPT
#: In place of the id of an intent: none.
NO_INTENT = -1


class Intents:
    """Intents by id, by orderRef and by run."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_or_create(self, key: IntentKey, **fields: Any) -> tuple[OrderIntent, bool]:
        """The intent of this key; made from `fields` if there is none yet, also when two tasks race for it.

        :param fields: the columns of :class:`OrderIntent` that the key does not give. `created_at` is needed;
            `updated_at` starts as `created_at`.
        :returns: the row, and whether this call made it. An intent that was there keeps its own fields.
        """
        values = {
            "order_ref": key.order_ref,
            "installation": key.installation,
            "dag_id": key.dag_id,
            "run_id": key.run_id,
            "task_id": key.task_id,
            "con_id": key.con_id,
            "leg": key.leg,
            "generation": key.generation,
            "updated_at": fields["created_at"],
            **fields,
        }
        created = insert_if_absent(self._session, OrderIntent, ("order_ref",), values)
        row = self.by_order_ref(key.order_ref)
        assert row is not None
        return row, created

    def get(self, intent_id: int) -> OrderIntent | None:
        """The intent of that id."""
        return self._session.get(OrderIntent, intent_id)

    def by_order_ref(self, order_ref: str) -> OrderIntent | None:
        """The intent that the broker knows by this orderRef."""
        return self._session.scalar(_BY_ORDER_REF, {"order_ref": order_ref})

    def for_run(self, dag_id: str, run_id: str) -> list[OrderIntent]:
        """The intents of a run, oldest first."""
        query = select(OrderIntent).where(OrderIntent.dag_id == dag_id, OrderIntent.run_id == run_id)
        return list(self._session.scalars(query.order_by(OrderIntent.id)))

    def newest(
        self,
        *,
        most: int,
        states: Collection[IntentState] | None = None,
        strategy: str = "",
        run_id: str = "",
        symbol: str = "",
    ) -> list[OrderIntent]:
        """The newest intents first, no more than so many.

        :param states: only in these; None for all. :param strategy, run_id, symbol: only of it; '' for all.
        """
        wanted = {OrderIntent.strategy: strategy, OrderIntent.run_id: run_id, OrderIntent.symbol: symbol}
        query = select(OrderIntent).where(*(column == value for column, value in wanted.items() if value))
        if states is not None:
            query = query.where(OrderIntent.state.in_(states))
        return list(self._session.scalars(query.order_by(OrderIntent.id.desc()).limit(most)))

    def unknown(self, *, sent_before: datetime) -> list[OrderIntent]:
        """Those first sent before then of which nobody knows whether they arrived, oldest first."""
        unknown = in_states({IntentState.SENDING, IntentState.AMBIGUOUS})
        query = select(OrderIntent).where(unknown, OrderIntent.sent_at <= sent_before)
        return list(self._session.scalars(query.order_by(OrderIntent.id)))

    def transitions(self, intent_id: int) -> list[IntentTransition]:
        """Every move of an intent, oldest first."""
        query = select(IntentTransition).where(IntentTransition.intent_id == intent_id)
        return list(self._session.scalars(query.order_by(IntentTransition.id)))

    def transition(
        self, intent: OrderIntent, new_state: IntentState, *, at: datetime, reason: str, **changes: Any
    ) -> OrderIntent:
        """Move an intent on and record the move.

        :param intent: as the caller last saw it, from this session or an earlier one.
        :param changes: further columns to set with it.
        :returns: the row as it is now, of this session; use it in place of `intent`.
        :raises ValueError: the table of states does not allow the move.
        :raises StoreError: another process has moved the intent since the caller saw it.
        """
        if not changes.keys() <= _CHANGEABLE:
            raise TypeError(f"an intent's {sorted(changes.keys() - _CHANGEABLE)} cannot be set with a transition")
        seen = intent.state
        row = self._session.scalars(_HELD, {"intent_id": intent.id}).one()
        if row.state is not seen:
            raise StoreError(
                f"Order intent {row.order_ref} is {row.state} by now, not {seen}: another process has moved it.",
                remedy="Load it again and decide from its present state.",
            )
        check_transition(seen, new_state)
        self._session.add(IntentTransition(intent_id=row.id, from_state=seen, to_state=new_state, at=at, reason=reason))
        row.state, row.reason, row.updated_at = new_state, reason, at
        for name, value in changes.items():
            setattr(row, name, value)
        self._session.flush()
        return row

    def release_unheld(self, source: str, account: str, *, now: datetime) -> list[OrderIntent]:
        """Take back the account's reservations that no worker holds: nothing was sent, and they block its limits.

        They are `decided` again, and whoever works on one next must reserve it anew. A worker that comes back after
        its lease has run out cannot renew it.

        :param source: reservations by every connection to the account, as in `AccountOrders`.
        :returns: the intents that were released.
        """
        place = {"kind": like_kind(source), "account": account, "now": now}
        if self._session.scalar(_ANY_UNHELD, place) is None:
            return []
        query = _UNHELD.with_only_columns(OrderIntent).params(place)
        # A row that another transaction holds at this moment is being worked on.
        rows = list(self._session.scalars(query.order_by(OrderIntent.id).with_for_update(skip_locked=True)))
        reason = "the reservation was released: no worker held it, and nothing was sent"
        return [
            self.transition(row, IntentState.DECIDED, at=now, reason=reason, lease_owner=None, lease_until=None)
            for row in rows
        ]

    def acquire_lease(self, intent_id: int, owner: str, *, now: datetime, seconds: float) -> bool:
        """Become the only one who works on the intent, unless another's lease still runs. Compare and set.

        The owner may take its own lease again; so an owner must be one process and attempt, not a host.
        """
        given = {"intent_id": intent_id, "owner": owner, "now": now, "until": now + timedelta(seconds=seconds)}
        return changed(self._session, _ACQUIRE, given) == 1

    def renew_lease(self, intent_id: int, owner: str, *, now: datetime, seconds: float) -> bool:
        """Hold the lease longer. False if it has run out or is another's: stop working on the intent."""
        given = {"intent_id": intent_id, "owner": owner, "now": now, "until": now + timedelta(seconds=seconds)}
        return changed(self._session, _RENEW, given) == 1

    def release_lease(self, intent_id: int, owner: str) -> bool:
        """Give the lease back; False if it was not the owner's."""
        return changed(self._session, _RELEASE, {"intent_id": intent_id, "owner": owner}) == 1

    def count_on_day(self, strategy: str, broker_day: date, *, excluding: int | None = None) -> int:
        """How many orders of the strategy are reserved, or were sent, on the broker's day, whatever became of them.

        A reservation that has no day yet counts on every day: nobody can say that it is another day's. A bracket counts
        once.

        :param excluding: id of an intent that is not counted.
        """
        given = {"strategy": strategy, "broker_day": broker_day, "excluding": excluding or NO_INTENT}
        return self._session.scalars(_STRATEGYS_DAY, given).one()


def counted_on_day(*where: ColumnElement[bool]) -> Select[int]:
    """The number of those orders that are reserved, or were sent, on the broker's day, the parameter `broker_day`.

    See `Intents.count_on_day`.
    """
    reserving = OrderIntent.state.in_(RESERVING)
    counted = select(func.count()).select_from(OrderIntent).where(*where, OrderIntent.parent_id.is_(None))
    on_day = counted.where(
        OrderIntent.broker_day == bindparam("broker_day"), or_(reserving, OrderIntent.sent_at.is_not(None))
    )
    undated = counted.where(OrderIntent.broker_day.is_(None), reserving)
    # Each by an index of its own: SQLite reads the whole account for an OR of both.
    return select(on_day.scalar_subquery() + undated.scalar_subquery())


# What every order asks is made once: to make such a statement takes longer than to run it.
_HELD = select(OrderIntent).where(OrderIntent.id == bindparam("intent_id")).with_for_update()
_HELD = _HELD.execution_options(populate_existing=True)
_BY_ORDER_REF = select(OrderIntent).where(OrderIntent.order_ref == bindparam("order_ref"))
_STRATEGYS_DAY = counted_on_day(OrderIntent.strategy == bindparam("strategy"), OrderIntent.id != bindparam("excluding"))
_UNHELD = select(OrderIntent.id).where(
    of_kind(OrderIntent.source),
    OrderIntent.account == bindparam("account"),
    OrderIntent.state == IntentState.RESERVED,
    unheld(bindparam("now")),
)
_LEASE = update(OrderIntent).where(OrderIntent.id == bindparam("intent_id"))
_LEASE = _LEASE.execution_options(synchronize_session=False)
_ACQUIRE = _LEASE.where(
    or_(
        OrderIntent.lease_owner == bindparam("owner"),
        OrderIntent.lease_owner.is_(None),
        OrderIntent.lease_until <= bindparam("now"),
    )
).values(lease_owner=bindparam("owner"), lease_until=bindparam("until"))
_OWN_LEASE = _LEASE.where(OrderIntent.lease_owner == bindparam("owner"))
_RENEW = _OWN_LEASE.where(OrderIntent.lease_until > bindparam("now")).values(lease_until=bindparam("until"))
_RELEASE = _OWN_LEASE.values(lease_owner=None, lease_until=None)
_ANY_UNHELD = _UNHELD.limit(1)
