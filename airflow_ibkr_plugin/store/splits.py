"""Fills of old shares in shares of today."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.reconciliations import PositionAdjustment
from airflow_ibkr_plugin.store.positions import Place


class Splits:
    """The splits of what a strategy holds of an instrument, read once."""

    def __init__(self, session: Session, place: Place) -> None:
        source, account, strategy, con_id = place
        query = select(PositionAdjustment.at, PositionAdjustment.new_shares, PositionAdjustment.old_shares).where(
            PositionAdjustment.source == source,
            PositionAdjustment.account == account,
            PositionAdjustment.strategy == strategy,
            PositionAdjustment.con_id == con_id,
        )
        self._splits = session.execute(query).all()

    def shares_since(self, since: datetime) -> Decimal:
        """How many shares one that was held then is by now; 1 where there was no split.

        A fill of the very time of a split is one of new shares, as in :meth:`Positions.replay`.

        :param since: by the broker's clock, aware UTC.
        """
        ratio = Decimal(1)
        for at, new, old in self._splits:
            if at > since:
                ratio = ratio * new / old
        return ratio
